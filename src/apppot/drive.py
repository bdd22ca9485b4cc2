"""Drive one machine from its start to its end: signals, limits, other commands, the result."""

from __future__ import annotations

import os
import signal
import time

from apppot import process
from apppot.agent import terminal
from apppot.agent.loop import READ, Loop, Signals
from apppot.agent.session import Command, Session, State
from apppot.agent.streams import let_go
from apppot.capturing import Archiving
from apppot.control_server import ControlServer
from apppot.ending import command_trouble, notes, run_status, stage_hint
from apppot.errors import AppPotError, ExitStatus, MachineError, UsageError
from apppot.lean import TYPE_CHECKING, replace
from apppot.machine.placement import BALANCE, balance
from apppot.outcome import Outcome, Phase, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from apppot.agent.preparing import Preparer
    from apppot.agent.results import CommandResult
    from apppot.agent.spec import CommandSpec
    from apppot.agent.standstill import Relay
    from apppot.capturing import Capture
    from apppot.checkpoint.saving import Saved, Saver
    from apppot.machine.engine import Engine, Machine

RELAYED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Seconds that a machine may take to power off; it has to write shared folders out in them.
POWER_OFF_PATIENCE = 30.0
# TERMs that come within this time of the first are the same request, in seconds: a batch system
# signals every process, and a script's trap passes on what we have been sent already.
SAME_REQUEST = 1.0


class Driver:
    """The state machine of a run; every method but `drive` is called by the loop."""

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        session: Session,
        command: CommandSpec,
        *,
        stdio: tuple[int, int, int],
        time_limit: float | None,
        grace: float,
        ending: tuple[int, ...] = (signal.SIGTERM,),
        preparing: Preparer | None = None,
        signals: bool = True,
        capture: Capture | None = None,
        saver: Saver | None = None,
        resumed: Relay | None = None,
        notice: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._session = session
        self._loop: Loop = session.loop
        self._spec = command
        self._stdio = stdio
        self._time_limit = time_limit
        self._grace = grace
        self._ending = ending
        self._notice = notice
        self._preparing = preparing
        self._heeds_signals = signals  # only the main thread can
        self._capture = capture
        self._saver = saver
        self._signals: list[int] | None = None  # that wait for the end of a checkpoint
        self._resumed = resumed
        self._archive: Archiving | None = None
        self._phase = Phase.BOOTING
        self._main: Command | None = None
        self._cause: Source | None = None
        self._terminated: float | None = None
        self._early_signal = 0
        self._error: AppPotError | None = None
        self._raw: terminal.Raw | None = None
        self._firmware_time: float | None = None

    def drive(self, stack: ExitStack, *, host_cpus: tuple[int, ...]) -> Outcome:
        """Run the loop to the machine's end; raises AppPotError if the payload has no status."""
        session, loop = self._session, self._loop
        session.on_hello = self._hello
        session.on_ready = self._ready
        session.on_end = self._ended
        session.on_notice = self._notice
        alive = os.pidfd_open(self._machine.pid)
        stack.callback(os.close, alive)
        loop.watch(alive, READ, lambda _: self._died(alive))
        if self._heeds_signals:
            watched = (*RELAYED, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
            stack.enter_context(Signals(loop, watched, self._signal))
            stack.callback(process.hold_signals)  # from the loop's end until all is cleaned up
            process.release_signals()
        stack.enter_context(ControlServer(self._machine.run, session, self))
        balance(loop, self._machine.pid, tuple(os.sched_getaffinity(0)), len(host_cpus))
        if self._spec.terminal:
            self._raw = stack.enter_context(terminal.Raw(self._stdio[0]))
        if self._resumed:
            self._go_on(self._resumed)
        loop.run()
        self._machine.kill()
        return self._outcome()

    def stop(self, grace: float | None = None) -> None:
        """End the payload as a TERM would; called a second time, by force."""
        if grace is not None:
            self._grace = grace
        self._terminate(Source.FORCED, signal.SIGTERM)

    def checkpoint(self, then: Callable[[Saved | AppPotError], None], *, stop: bool) -> None:
        """Save the machine and tell `then`; with `stop` that is the end. Raises AppPotError."""
        if self._saver is None:
            raise UsageError("the machine cannot be saved: it was started without --checkpoint-dir")
        if self._phase is not Phase.RUNNING or self._main is None:
            raise MachineError("the payload does not run, so there is nothing to save")

        def done(result: Saved | AppPotError) -> None:
            then(result)
            if stop and not isinstance(result, AppPotError):
                self._cause = Source.CHECKPOINT
                self._loop.stop()  # what was not passed on yet has been saved
                return
            signals, self._signals = self._signals or [], None
            for number in signals:
                self._signal(number)

        self._saver.begin(self._session, self._machine, self._main, done, stop=stop)
        self._signals = [] if stop else None

    def _go_on(self, relay: Relay) -> None:
        """Begin with a machine that has been restored, and its payload."""
        from apppot.agent import standstill

        def running() -> None:
            self._phase = Phase.RUNNING
            self._signal(signal.SIGWINCH)

        self._attach(standstill.adopt(self._session, relay, self._stdio))
        standstill.go_on(self._session, relay, running)

    # -- the machine ------------------------------------------------------------------------

    def _hello(self) -> None:
        self._firmware_time = time.monotonic() - self._machine.launched - self._session.booted
        guest = self._machine.guest
        if not self._machine.has_clock:
            guest = replace(guest, clock=time.time_ns())
        self._session.configure(guest)

    def _ready(self) -> None:
        self._phase = Phase.RUNNING
        if self._preparing:
            self._preparing.begin(self._start)
        else:
            self._start()

    def _start(self) -> None:
        if self._preparing and self._preparing.trouble:
            self._error = MachineError(self._preparing.trouble)
            self._power_off()
            return
        if self._terminated is not None:  # while the machine was prepared
            self._force(Source.FORCED)
            return
        self._attach(self._session.start(self._spec, self._stdio))

    def _attach(self, payload: Command) -> None:
        self._main = payload
        payload.on_end = lambda _: self._payload_ended()
        payload.on_output_end = self._output_ended
        if self._time_limit is not None:
            self._loop.timer("limit", self._time_limit, self._out_of_time)

    def _output_ended(self, stream: int) -> None:
        """Pass the end of the payload's standard output on; our own copy would keep it open.

        Standard error stays: AppPot may have to say something at the end.
        """
        if stream == self._stdio[1] == 1:
            let_go(1)

    def _payload_ended(self) -> None:
        """Archive the changes if they are wanted, and if there was a payload; then power off."""
        result = self._main.result if self._main else None
        wanted = self._capture
        if wanted and self._phase is Phase.RUNNING and result and not result.failure:
            self._archive = Archiving(self._loop, self._session, wanted, self._power_off)
        else:
            self._power_off()

    def _power_off(self) -> None:
        """Let the agent write everything out and end the machine."""
        if self._phase in (Phase.ENDING, Phase.DOWN):
            return
        self._phase = Phase.ENDING
        self._session.power_off()
        self._loop.timer("patience", POWER_OFF_PATIENCE, self._impatient)

    def _impatient(self) -> None:
        self._error = MachineError(
            f"the machine did not power off within {POWER_OFF_PATIENCE:.0f} s and was killed",
            hint="what the payload wrote last to shared folders may be missing",
        )
        self._down()

    def _died(self, alive: int) -> None:
        """Act on the end of the machine's main process, after its last words have been read."""
        self._loop.unwatch(alive)
        if self._session.lost:
            self._ended()
        else:
            self._session.finish()

    def _ended(self) -> None:
        """Act on BYE, on FAILED, and on a channel that broke."""
        if self._phase is Phase.DOWN:
            return
        session = self._session
        if session.failure:
            stage, failure = session.failure.stage, session.failure
            self._error = self._error or MachineError(
                f"the guest could not be set up ({stage}): {failure}",
                hint=stage_hint(stage, str(failure)),
            )
        elif session.bye is None:
            self._error = self._error or self._engine.explain(self._machine)
        self._down()

    def _down(self) -> None:
        self._phase = Phase.DOWN
        self._machine.kill()
        for name in ("patience", "limit", "grace", BALANCE):
            self._loop.cancel(name)
        self._finish_output()

    def _finish_output(self) -> None:
        """Stop once what the payload has written has reached the host's descriptors."""
        if self._main is None or self._main.flushed:
            self._loop.stop()
        else:
            self._main.on_flush = self._loop.stop

    # -- signals and limits -----------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if self._signals is not None:  # a batch system's next one is not for the restored payload
            self._signals.append(number)
        elif number == signal.SIGWINCH:
            if self._main and self._spec.terminal:
                size = terminal.size(self._stdio[0])
                self._main.resize(size.rows, size.columns)
        elif number == signal.SIGTSTP:
            self._suspend()
        elif number == signal.SIGCONT:
            if self._raw:
                self._raw.apply()
            self._relay(signal.SIGCONT)
        elif self._phase is Phase.RUNNING and self._saver and number == self._saver.habits.signal:
            self._save_and_end()
        elif self._phase is Phase.BOOTING or self._phase is Phase.DOWN:
            self._error = AppPotError(
                f"ended by {signal.Signals(number).name} before the payload had started"
                if self._phase is Phase.BOOTING
                else f"ended by {signal.Signals(number).name} while its output was not yet read"
            )
            self._early_signal = number
            self._phase = Phase.DOWN
            self._loop.stop()
        elif number in self._ending:
            self._terminate(Source.FORCED, number)
        else:
            self._relay(number)

    def _save_and_end(self) -> None:
        try:
            self.checkpoint(terminal.tell, stop=True)
        except AppPotError as error:  # the run goes on
            terminal.tell(error)

    def _relay(self, number: int) -> None:
        if self._main and self._main.state is not State.ENDED:
            self._main.send_signal(number)

    def _suspend(self) -> None:
        """Stop the payload, then ourselves, as a shell's ^Z expects."""
        self._relay(signal.SIGTSTP)
        if self._raw:
            self._raw.restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _out_of_time(self) -> None:
        self._cause = Source.TIME_LIMIT
        self._terminate(Source.TIME_LIMIT, signal.SIGTERM)

    def _terminate(self, cause: Source, number: int) -> None:
        """Pass the first signal on and start the grace period; power off at the second."""
        now = time.monotonic()
        if self._terminated is not None:
            if now - self._terminated > SAME_REQUEST:
                self._force(cause)
            return
        self._terminated = now
        self._relay(number)
        self._loop.timer("grace", self._grace, lambda: self._force(cause))

    def _force(self, cause: Source) -> None:
        if self._main is None or self._main.state is not State.ENDED:
            self._cause = self._cause or cause
        self._power_off()

    # -- the result -------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        result = self._main.result if self._main else None
        status, source = run_status(result, self._cause, self._early_signal)
        message, hint = self._trouble(result)
        if message and source is Source.PAYLOAD:
            status, source = ExitStatus.MACHINE, Source.APPPOT
        end = self._machine.reap()
        return Outcome(
            status=status,
            source=source,
            result=result,
            message=message,
            hint=hint,
            notes=tuple(notes(result, self._cause, self._time_limit, self._machine)),
            firmware_time=self._firmware_time,
            hello_time=self._session.booted or None,
            ready_time=self._session.seconds(self._session.ready),
            start_time=self._main.started_at if self._main else None,
            guest_memory=self._session.memory,
            host_cpu_time=end.cpu_time,
            host_peak_memory=end.peak_memory,
            kernel=self._session.kernel,
            captured=bool(self._archive and self._archive.done),
        )

    def _trouble(self, result: CommandResult | None) -> tuple[str, str]:
        """Return what the user has to be told besides the status, and what to do about it."""
        if result and result.failure:
            return command_trouble(self._spec.arguments[0], result)
        if self._error:
            return self._error.message, self._error.hint
        lost = self._session.unwritten
        if lost:
            return (
                f"shared folders could not be written out: {os.strerror(lost)}",
                "files that the payload wrote may be incomplete; check space and quota",
            )
        if self._archive and self._archive.trouble:
            return f"the changes could not be saved: {self._archive.trouble}", ""
        if self._main and self._main.output_error:
            return f"output could not be written: {self._main.output_error.strerror}", ""
        return "", ""
