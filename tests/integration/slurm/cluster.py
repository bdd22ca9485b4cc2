"""A private Slurm cluster on this computer: two nodes, its own key, ports and folders."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.integration.slurm import address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")
USER = "nobody"  # who submits: an account without any right, and there on every Debian
NODES = 2
PATIENCE = 60.0
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={slurmd_port}
SrunPortRange={srun_first}-{srun_last}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
SlurmUser=slurm
SlurmdUser=root
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1200
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
KillWait={kill_wait}
MinJobAge=3600
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_first}-{node_last}] \
CPUs=4 RealMemory=8192 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=5 State=UP
"""


@dataclass(frozen=True)
class Job:
    """What Slurm's records say of one job."""

    fields: dict[str, str]

    @property
    def state(self) -> str:
        """Return COMPLETED, FAILED, CANCELLED, TIMEOUT, ..."""
        return self.fields["JobState"]

    @property
    def exit_code(self) -> str:
        """Return `status:signal`."""
        return self.fields["ExitCode"]


def missing() -> str:
    """Return why no cluster can be started here, or ''."""
    if os.getuid() != 0:
        return "slurmd must be started by root"
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class Cluster:
    """A running cluster, and AppPot installed in it as an administrator would."""

    def __init__(self, folder: str, kill_wait: int) -> None:
        self.folder = folder
        self.kill_wait = kill_wait
        self.account = pwd.getpwnam(USER)
        self.jobs = os.path.join(folder, "jobs")
        self.runtime = os.path.join(folder, "runtime")
        self._count = 0

    # -- start and stop ---------------------------------------------------------------------

    def start(self, stack: contextlib.ExitStack, kit: str, store: str) -> None:
        """Start the daemons and install AppPot; `stack` undoes it all."""
        for name in ("munge", "ctld", "log", "run", "jobs", "runtime"):
            os.mkdir(os.path.join(self.folder, name), 0o755)
        for node in range(1, NODES + 1):
            os.makedirs(os.path.join(self.folder, "slurmd", f"n{node}"))
        os.chmod(self.folder, 0o755)
        self._give("jobs", USER)
        self._give("runtime", USER)
        os.chmod(self.runtime, 0o700)
        self._install(kit, store)
        self._configure()
        self._munge(stack)
        self._give("ctld", "slurm")
        self._give("log", "slurm")
        self._daemon(stack, ["slurmctld", "-D", "-c"])
        for node in range(1, NODES + 1):
            self._daemon(stack, ["slurmd", "-D", "-N", f"n{node}"])
        ready = until(lambda: self._idle() == NODES)
        assert ready, f"the cluster did not come up:\n{self.log()}"

    def _configure(self) -> None:
        port = address.free_ports()
        text = _CONFIG.format(
            host=address.host_name(),
            folder=self.folder,
            kill_wait=self.kill_wait,
            nodes=NODES,
            port=port,
            slurmd_port=port + 1,
            node_first=port + 2,
            node_last=port + 1 + NODES,
            srun_first=port + 10,
            srun_last=port + address.PORTS - 1,
        )
        with open(self.config, "w", encoding="ascii") as file:
            file.write(text)

    def _munge(self, stack: contextlib.ExitStack) -> None:
        folder = os.path.join(self.folder, "munge")
        key = os.path.join(folder, "munge.key")
        with open(key, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(1024))
        self._give("munge", "munge")
        self._give("munge/munge.key", "munge")
        # fmt: off
        self._daemon(stack, [
            "setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups",
            "munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.sock",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed", "--num-threads=2",
        ])
        # fmt: on
        assert until(lambda: os.path.exists(f"{folder}/munge.sock"))

    def _daemon(self, stack: contextlib.ExitStack, argv: list[str]) -> None:
        log = os.open(
            os.path.join(self.folder, "log", "daemons.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        # Daemons and jobs must not outlive tests that are killed.
        process = subprocess.Popen(
            [*address.found_by_name(), "setpriv", "--pdeathsig", "TERM", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment,
        )
        os.close(log)

        def stop() -> None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        stack.callback(stop)

    def _install(self, kit: str, store: str) -> None:
        """Put package, kit and store where every user can read them."""
        shutil.copytree(kit, os.path.join(self.folder, "kit"))
        shutil.copytree(store, os.path.join(self.folder, "store"), copy_function=_link_or_copy)
        for top in ("kit", "store"):
            subprocess.run(["chmod", "-R", "go+rX", os.path.join(self.folder, top)], check=True)
        library = os.path.join(self.folder, "lib")
        ignore = shutil.ignore_patterns("__pycache__")
        package = os.path.join(_ROOT, "src", "apppot")
        shutil.copytree(package, os.path.join(library, "apppot"), ignore=ignore)
        os.mkdir(os.path.join(self.folder, "bin"))
        command = os.path.join(self.folder, "bin", "apppot")
        with open(command, "w", encoding="utf-8") as file:
            python = os.path.realpath(sys.executable)
            file.write(f'#!/bin/sh\nPYTHONPATH={library} exec {python} -m apppot "$@"\n')
            os.fchmod(file.fileno(), 0o755)

    def _give(self, name: str, user: str) -> None:
        shutil.chown(os.path.join(self.folder, name), user, pwd.getpwnam(user).pw_gid)

    def _idle(self) -> int:
        done = self._call(["sinfo", "-h", "-N", "-o", "%T"])
        return done.stdout.split().count("idle")

    # -- use --------------------------------------------------------------------------------

    @property
    def config(self) -> str:
        """Return the path of the configuration."""
        return os.path.join(self.folder, "slurm.conf")

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of daemons and clients; jobs inherit the clients'."""
        return {
            "PATH": f"{self.folder}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SLURM_CONF": self.config,
            "APPPOT_KIT": os.path.join(self.folder, "kit"),
            "APPPOT_STORE": os.path.join(self.folder, "store"),
            "APPPOT_RUNTIME_DIR": self.runtime,
            "HOME": self.jobs,
            "LC_ALL": "C.UTF-8",
        }

    def _call(self, argv: Sequence[str], cwd: str = "/") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(argv), cwd=cwd, env=self.environment, text=True, capture_output=True, check=False
        )

    @property
    def as_user_words(self) -> tuple[str, ...]:
        """Return the words before a command that make it the user's."""
        uid, gid = self.account.pw_uid, self.account.pw_gid
        return ("setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups")

    def as_user(self, argv: Sequence[str], cwd: str = "") -> str:
        """Run a client command as the user who has no rights; return what it says."""
        done = self._call([*self.as_user_words, *argv], cwd or self.jobs)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def as_root(self, argv: Sequence[str]) -> str:
        """Run a client command as the cluster's operator."""
        done = self._call(argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def new_folder(self) -> str:
        """Return a new folder of the user's."""
        self._count += 1
        folder = os.path.join(self.jobs, f"job{self._count}")
        os.mkdir(folder)
        self.give(folder)
        return folder

    def give(self, path: str) -> None:
        """Make the user the owner of a file, or of a folder and everything in it."""
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                shutil.chown(os.path.join(folder, name), self.account.pw_uid, self.account.pw_gid)
        shutil.chown(path, self.account.pw_uid, self.account.pw_gid)

    def submit(self, script: str, *options: str, folder: str = "") -> tuple[str, str]:
        """Submit a batch script's text; return the job's number and its folder."""
        folder = folder or self.new_folder()
        path = os.path.join(folder, "job.sh")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        os.chmod(path, 0o755)
        words = ["sbatch", "--parsable", "-o", "out", "-e", "err", *options, "job.sh"]
        return self.as_user(words, folder).strip(), folder

    def job(self, number: str) -> Job:
        """Return one job's record."""
        text = self.as_user(["scontrol", "show", "job", "-o", number])
        return Job(dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0])))

    def wait(self, number: str, patience: float = PATIENCE) -> Job:
        """Wait for a job's end; return its record."""
        over = until(lambda: self.job(number).state not in _ALIVE, patience)
        assert over, f"job {number} goes on: {self.job(number).fields}\n{self.log()}"
        return self.job(number)

    def wait_array(self, number: str, patience: float) -> list[Job]:
        """Wait for the end of every task of an array; return their records."""

        def look() -> list[Job]:
            lines = self.as_user(["scontrol", "show", "job", "-o", number]).splitlines()
            return [Job(dict(re.findall(r"(\w+)=(\S*)", line))) for line in lines if line]

        over = until(lambda: not any(job.state in _ALIVE for job in look()), patience)
        assert over, f"array {number} goes on: {look()}\n{self.log()}"
        return look()

    def processes(self) -> list[str]:
        """Return every process of the user's that belongs to this cluster's jobs."""
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}").st_uid != self.account.pw_uid:
                    continue
                where = (os.readlink(f"/proc/{pid}/cwd"), os.readlink(f"/proc/{pid}/exe"))
                if any(path.startswith(self.folder) for path in where):
                    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                        found.append(f"{pid} {file.read().strip()}")
        return found

    def left(self) -> list[str]:
        """Return processes and files that ended jobs have left on the node, after a moment."""

        def look() -> list[str]:
            return self.processes() + os.listdir(self.runtime)

        until(lambda: not look(), 10)
        return look()

    def log(self) -> str:
        """Return the last lines of every daemon's log."""
        texts = []
        folder = os.path.join(self.folder, "log")
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                texts += [f"--- {name}\n", *file.readlines()[-20:]]
        return "".join(texts)


_ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"}


def until(look: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Look until there is something, or patience is at its end."""
    end = time.monotonic() + patience
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _link_or_copy(source: str, target: str) -> str:
    """Link layers that everybody may read (they are large, and nobody writes to them)."""
    if "/blobs/" in source and os.stat(source).st_mode & 0o004:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return target
    return str(shutil.copy(source, target))


def read(*parts: str) -> str:
    """Return a text file's contents; '' if it is not there."""
    try:
        with open(os.path.join(*parts), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def running(kit: str, store: str, *, kill_wait: int = 5) -> Iterator[Cluster]:
    """Run a cluster with a copy of a kit and a store."""
    folder = tempfile.mkdtemp(prefix="apppot-slurm-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = Cluster(folder, kill_wait)
        cluster.start(stack, kit, store)
        yield cluster
        for line in cluster.processes():
            os.kill(int(line.split()[0]), signal.SIGKILL)
