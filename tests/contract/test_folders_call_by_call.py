"""Contract: a shared folder answers each file system call as the host's own folder does.

The same program (`fsops.c`) does the same random calls twice: in a machine, in a shared folder,
and on the host, in a folder of the same file system. All answers must be the same, errors included.
In between the host changes files of both folders by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.contract import fsops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.harness import AppPot, Running

EXAMPLES = int(os.environ.get("APPPOT_TEST_EXAMPLES", "60"))
STEPS = int(os.environ.get("APPPOT_TEST_STEPS", "50"))

NAMES = ("a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "a/b", "missing/a")
FLAGS = tuple(
    access | more
    for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
    for more in (
        0,
        os.O_CREAT,
        os.O_CREAT | os.O_EXCL,
        os.O_TRUNC,
        os.O_CREAT | os.O_TRUNC,
        os.O_CREAT | os.O_APPEND,
        os.O_DIRECTORY,
        os.O_NOFOLLOW,
    )
)
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
SEEK_DATA, SEEK_HOLE = 3, 4
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

names = st.sampled_from(NAMES)
slots = st.integers(0, 3)
places = st.one_of(
    st.sampled_from([0, 1, 511, 4095, 4096, 4097, 65536, 1_000_000]), st.integers(0, 20_000)
)
lengths = st.one_of(st.sampled_from([0, 1, 4096, 8192, 300_000]), st.integers(0, 10_000))
seeds = st.integers(0, 255)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o200, 0o000, 0o1777, 0o4755])


@pytest.fixture(scope="session", name="program")
def _program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fsops.build(str(tmp_path_factory.mktemp("fsops")))


class Pair:
    """The program in a machine and on the host, each in its own folder."""

    def __init__(self, apppot: AppPot, running: Running, native: subprocess.Popen[bytes]) -> None:
        self.shared = apppot.path("shared")
        self.native = apppot.path("native")
        self._guest = running
        self._host = native
        self.examples = itertools.count()
        self.said: list[str] = []
        self.differs = False

    def both(self, *words: object) -> bytes:
        """Have both do a call; their answers must be the same."""
        line = " ".join(map(str, words)).encode() + b"\n"
        ours, theirs = self._guest.process.stdin, self._host.stdin
        assert ours
        assert theirs
        assert self._host.stdout
        ours.write(line)
        theirs.write(line)
        theirs.flush()
        expected = self._host.stdout.readline()
        found = self._guest.expect(b"\n")
        self.said.append(f"{line.decode().strip()}: {expected.decode().strip()}")
        if found != expected:
            self.differs = True
            calls = "\n".join(self.said)
            pytest.fail(f"the shared folder says {found.decode()}after these calls:\n{calls}")
        return expected

    def folders(self, name: str) -> tuple[str, str]:
        return os.path.join(self.shared, name), os.path.join(self.native, name)


@contextlib.contextmanager
def pair_in(apppot: AppPot, program: str) -> Iterator[Pair]:
    """Start both; the folders are below the job folder, and so on one file system."""
    for name in ("shared", "native"):
        os.mkdir(apppot.path(name))
    shutil.copy(program, apppot.path("shared", "fsops"))
    command = ("sh", "-c", "cd /shared && exec ./fsops")
    bind = f"{apppot.path('shared')}:/shared"
    given = ("--network", "none", "--bind", bind)
    with (
        apppot.start(command, options=given, stdin=subprocess.PIPE) as running,
        subprocess.Popen(
            [program], cwd=apppot.path("native"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as native,
    ):
        yield Pair(apppot, running, native)
        assert running.process.stdin
        assert native.stdin
        running.process.stdin.close()
        running.process.stdin = None
        native.stdin.close()
        ended = running.wait()
        assert ended.status == 0, ended.complaint
        assert native.wait(10) == 0


class Calls(RuleBasedStateMachine):
    """Random calls on few names and descriptors, so that they meet."""

    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.pair.said.clear()
        self.pair.differs = False
        # As deep as links to `..` can lead up
        self.top = str(next(self.pair.examples))
        self.folder = os.path.join(self.top, "1", "2", "3")
        for folder in self.pair.folders(self.folder):
            os.makedirs(folder)
        self.pair.both("enter", self.folder)

    def teardown(self) -> None:
        if not self.pair.differs:
            self.pair.both("list", ".")
            for name in NAMES:
                self.pair.both("stat", name)
        for folder in self.pair.folders(self.top):
            subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
        self.pair.both("enter", "/".join([".."] * 4))
        for folder in self.pair.folders(self.top):
            shutil.rmtree(folder)

    @rule(slot=slots, name=names, flags=st.sampled_from(FLAGS), mode=modes)
    def open(self, slot: int, name: str, flags: int, mode: int) -> None:
        self.pair.both("open", slot, name, flags, mode)

    @rule(slot=slots, name=st.sampled_from(["a", "b", "d/a"]))
    def open_new(self, slot: int, name: str) -> None:
        self.pair.both("open", slot, name, os.O_RDWR | os.O_CREAT, 0o644)

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        self.pair.both("close", slot)

    @rule(slot=slots, at=places, length=lengths, seed=seeds)
    def pwrite(self, slot: int, at: int, length: int, seed: int) -> None:
        self.pair.both("pwrite", slot, at, length, seed)
        self.pair.both("fstat", slot)

    @rule(slot=slots, length=lengths, seed=seeds)
    def write(self, slot: int, length: int, seed: int) -> None:
        self.pair.both("write", slot, length, seed)
        self.pair.both("lseek", slot, 0, os.SEEK_CUR)

    @rule(slot=slots, at=places, length=lengths)
    def pread(self, slot: int, at: int, length: int) -> None:
        self.pair.both("pread", slot, at, length)

    @rule(slot=slots, at=places, length=st.integers(1, 100_000))
    def map_and_read(self, slot: int, at: int, length: int) -> None:
        self.pair.both("mapread", slot, at, length)

    @rule(slot=slots, at=places, length=st.integers(1, 50_000), seed=seeds, sync=st.booleans())
    def map_and_write(self, slot: int, at: int, length: int, seed: int, *, sync: bool) -> None:
        self.pair.both("mapwrite", slot, at, length, seed, int(sync))

    @rule(slot=slots, size=places)
    def ftruncate(self, slot: int, size: int) -> None:
        self.pair.both("ftruncate", slot, size)
        self.pair.both("fstat", slot)

    @rule(name=names, size=places)
    def truncate(self, name: str, size: int) -> None:
        self.pair.both("truncate", name, size)

    @rule(
        slot=slots,
        mode=st.sampled_from([0, KEEP_SIZE, KEEP_SIZE | PUNCH, ZERO, ZERO | KEEP_SIZE, PUNCH]),
        at=places,
        length=lengths,
    )
    def fallocate(self, slot: int, mode: int, at: int, length: int) -> None:
        self.pair.both("fallocate", slot, mode, at, length)
        self.pair.both("fstat", slot)

    @rule(
        slot=slots,
        at=places,
        whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, SEEK_DATA, SEEK_HOLE]),
    )
    def lseek(self, slot: int, at: int, whence: int) -> None:
        self.pair.both("lseek", slot, at, whence)

    @rule(one=slots, other=slots, start=places, to=places, length=lengths)
    def copy_file_range(self, one: int, other: int, start: int, to: int, length: int) -> None:
        self.pair.both("copy", one, other, start, to, length)

    @rule(slot=slots, data_only=st.booleans())
    def fsync(self, slot: int, *, data_only: bool) -> None:
        self.pair.both("fsync", slot, int(data_only))

    @rule(name=names)
    def stat(self, name: str) -> None:
        self.pair.both("stat", name)

    @rule(name=names, mode=modes)
    def chmod(self, name: str, mode: int) -> None:
        self.pair.both("chmod", name, mode)
        self.pair.both("stat", name)

    @rule(slot=slots, mode=modes)
    def fchmod(self, slot: int, mode: int) -> None:
        self.pair.both("fchmod", slot, mode)
        self.pair.both("fstat", slot)

    @rule(name=names, when=st.integers(0, 2**33), part=st.integers(0, 999_999_999))
    def set_times(self, name: str, when: int, part: int) -> None:
        answer = self.pair.both("utime", name, when, part, when // 2, 999_999_999 - part)
        if answer == b"0\n":
            self.pair.both("stat", name, 1)

    @rule(name=names)
    def unlink(self, name: str) -> None:
        self.pair.both("unlink", name)

    @rule(name=names, mode=modes)
    def mkdir(self, name: str, mode: int) -> None:
        self.pair.both("mkdir", name, mode | 0o700)
        self.pair.both("stat", name)

    @rule(name=names)
    def rmdir(self, name: str) -> None:
        self.pair.both("rmdir", name)

    @rule(
        one=names,
        other=names,
        flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]),
    )
    def rename(self, one: str, other: str, flags: int) -> None:
        self.pair.both("rename", one, other, flags)
        self.pair.both("stat", one)
        self.pair.both("stat", other)

    @rule(one=names, other=names)
    def link(self, one: str, other: str) -> None:
        self.pair.both("link", one, other)
        self.pair.both("stat", one)

    @rule(to=st.sampled_from(["a", "d", "..", "../b", "missing"]), name=names)
    def symlink(self, to: str, name: str) -> None:
        self.pair.both("symlink", to, name)
        self.pair.both("readlink", name)

    @rule(name=names, mode=modes)
    def mkfifo(self, name: str, mode: int) -> None:
        # Opening one could wait for ever: it has another name than all files that are opened.
        self.pair.both("mkfifo", name + "fifo", mode)
        self.pair.both("stat", name + "fifo")

    @rule(name=names, mode=st.integers(0, 7))
    def access(self, name: str, mode: int) -> None:
        self.pair.both("access", name, mode)

    @rule(name=st.sampled_from([".", "d", "d/e", "a"]))
    def list(self, name: str) -> None:
        self.pair.both("list", name)
        self.pair.both("listagain", name)

    @rule(slot=slots, operation=st.sampled_from([1, 2, 8]))
    def flock(self, slot: int, operation: int) -> None:
        self.pair.both("flock", slot, operation)

    @rule(name=names, attribute=st.sampled_from(["user.a", "user.b"]), value=st.integers(0, 9))
    def set_attribute(self, name: str, attribute: str, value: int) -> None:
        self.pair.both("setxattr", name, attribute, str(value) * (value + 1), value % 3)
        self.pair.both("getxattr", name, attribute)

    @rule(name=names, attribute=st.sampled_from(["user.a", "user.b"]))
    def remove_attribute(self, name: str, attribute: str) -> None:
        self.pair.both("rmxattr", name, attribute)

    @rule(slot=slots, kind=st.sampled_from([0, 1, 2]), start=places, length=lengths)
    def lock(self, slot: int, kind: int, start: int, length: int) -> None:
        self.pair.both("lock", slot, kind, start, length)

    @rule(name=names, content=st.binary(max_size=9000), cut=st.booleans())
    def host_writes(self, name: str, content: bytes, *, cut: bool) -> None:
        """Have the host overwrite a file in both folders, under the guest's feet."""
        self.pair.said.append(f"host writes {len(content)} bytes to {name}, cut: {cut}")
        for folder in self.pair.folders(self.folder):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with contextlib.suppress(OSError), open(path, "r+b") as file:
                    file.write(content)
                    if cut:
                        file.truncate()

    @rule(name=names, content=st.binary(min_size=1, max_size=5000))
    def host_replaces(self, name: str, content: bytes) -> None:
        """Have the host put another file in place of one."""
        self.pair.said.append(f"host replaces {name} by one of {len(content)} bytes")
        for folder in self.pair.folders(self.folder):
            path = os.path.join(folder, name)
            if os.path.isdir(os.path.dirname(path)) and not os.path.isdir(path):
                with contextlib.suppress(OSError):
                    with open(path + ".new", "wb") as file:
                        file.write(content)
                    os.replace(path + ".new", path)

    @rule(name=names)
    def host_removes(self, name: str) -> None:
        self.pair.said.append(f"host removes {name}")
        for folder in self.pair.folders(self.folder):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))

    @rule(one=names, other=names)
    def host_renames(self, one: str, other: str) -> None:
        self.pair.said.append(f"host renames {one} to {other}")
        for folder in self.pair.folders(self.folder):
            with contextlib.suppress(OSError):
                os.rename(os.path.join(folder, one), os.path.join(folder, other))


@pytest.mark.only_on(
    "uml", reason="9p lacks calls that hostfs has (fallocate, O_TMPFILE, renameat2, open fifos)"
)
def test_random_calls(apppot: AppPot, program: str) -> None:
    with pair_in(apppot, program) as pair:
        machine: Any = type("CallsInPair", (Calls,), {"pair": pair})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize="APPPOT_TEST_EXAMPLES" not in os.environ,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
