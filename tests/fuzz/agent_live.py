"""Throws random but well-formed frames at the running agent, built to trap undefined behaviour."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", ".."))

from tests.unit.guest_client import (  # noqa: E402
    WINDOW,
    Agent,
    Pair,
    Type,
    frame,
    records,
    specification,
)

COMMANDS = (
    b"cat", b"exit 3", b"kill -9 $$", b"head -c 300000 /dev/zero", b"yes | head -c 500000",
    b"sleep 0.05 & echo x", b"exec <&-; sleep 0.02", b"read a; echo $a", b"kill -STOP $$",
    b"stty -echo 2>/dev/null; cat", b"no-such-program", b"wc -c", b"trap '' TERM HUP; sleep 0.05",
)  # fmt: skip


def step(dice: random.Random, used: int) -> bytes:
    """Return one frame, of any kind, for any command so far."""
    ident = dice.randint(max(1, used - 5), used)
    choice = dice.random()
    if choice < 0.45:
        data = dice.randbytes(dice.choice((0, 1, 1, 100, 5000, 60000)))
        return frame(Type.STDIN, ident, data)
    if choice < 0.6:
        return frame(Type.SIGNAL, ident, bytes([dice.choice((1, 2, 9, 10, 15, 18, 20, 28))]))
    if choice < 0.7:
        return frame(Type.RESIZE, ident, dice.randbytes(8))
    if choice < 0.78:
        return frame(Type.CLOSE, ident, bytes([dice.choice((1, 2))]))
    if choice < 0.8:
        return frame(Type.CREDIT, ident, struct.pack("<BI", 1, dice.choice((0, 1, WINDOW))))
    return b""


def begin(dice: random.Random, ident: int) -> bytes:
    """Return the frames of a new command."""
    pairs: list[Pair] = [(1, b"/bin/sh"), (1, b"-c"), (1, dice.choice(COMMANDS))]
    pairs += [(2, b"PATH=/usr/bin:/bin"), (7, dice.randint(0, 1)), (8, 24), (9, 80)]
    return specification(Type.COMMAND, ident, records(pairs), dice.choice((3, 100, 65536)))


def talk(agent: Agent, dice: random.Random) -> None:
    """Send until the agent hangs up or it has been enough."""
    used = 1
    agent.send(begin(dice, used))
    for _ in range(dice.randint(1, 400)):
        if dice.random() < 0.2:
            used += 1
            agent.send(begin(dice, used))
        agent.send(step(dice, used))
        while dice.random() < 0.7:
            try:
                got = agent.receive(0.001)
            except TimeoutError:
                break
            if got.type in (Type.STDOUT, Type.STDERR) and got.payload and dice.random() < 0.9:
                agent.credit(got.id, got.type - Type.STDOUT + 1, len(got.payload))
    if dice.random() < 0.5:
        agent.send(frame(Type.POWEROFF))
        while agent.receive().type is not Type.BYE:
            pass


def main() -> int:
    """Run for so many seconds; the folder is for the build."""
    seconds, folder = float(sys.argv[1]), sys.argv[2]
    trap = "CFLAGS=-O1 -g -fsanitize=undefined -fsanitize-undefined-trap-on-error"
    guest = os.path.join(HERE, "..", "..", "guest")
    program = os.path.join(folder, "agent")
    subprocess.run(["make", "-s", "-C", guest, f"OUT={folder}", trap, program], check=True)
    end, rounds, seed = time.monotonic() + seconds, 0, time.time_ns()
    while time.monotonic() < end:
        rounds += 1
        agent = Agent(program)
        with contextlib.suppress(EOFError, OSError):
            talk(agent, random.Random(seed + rounds))
        agent.close()
        if agent.process.returncode != 0:
            print(f"agent_live: seed {seed + rounds}: agent status {agent.process.returncode}")
            return 1
    print(f"agent_live: {rounds} conversations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
