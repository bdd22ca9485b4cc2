"""Contract: arguments and environment arrive byte for byte, and nothing is added to them."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.harness import AppPot, Running

# Print every argument (or variable) and a NUL after it: no argument can hold one.
ARGUMENTS = ("perl", "-e", "binmode STDOUT; print map { $_ . chr 0 } @ARGV", "--")
ENVIRONMENT = ("sh", "-c", "exec cat /proc/self/environ")

HARD = (
    b"",
    b" ",
    b"   leading and trailing   ",
    b"\n",
    b"line\nline\r\n\ttab",
    b"--",
    b"-",
    b"-x",
    b"--memory",
    b"--help",
    b"-t",
    b"'",
    b'"',
    b"'\"'\"'",
    b"\\",
    b"\\n\\0\\x41",
    b"$HOME `id` $(id) ${PATH} !!",
    b"* ? [a-z] ~ {a,b}",
    b"; & | < > ( ) #",
    b"%s %d %n %%",
    "größe 日本語 🚀 e\u0301".encode(),
    "\u202eright to left".encode(),
    b"\xff\xfe\x80\xc0\xaf",
    b"\xed\xa0\x80",  # a surrogate, which no valid UTF-8 has
    bytes(range(1, 256)),
    b"=",
    b"NAME=value",
    b"apppot.channel=/dev/tty9",
    b"@file",
    b"\x1b[31mred\x07",
    b"x" * 100_000,
)
WORDS = st.one_of(
    st.sampled_from(HARD),
    st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"")),
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(
        str.encode
    ),
)
VECTORS = st.lists(WORDS, max_size=12)
NAMES = st.from_regex(rb"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@pytest.fixture(scope="module")
def machine(shared_apppot: AppPot) -> Iterator[Running]:
    with shared_apppot.machine() as running:
        yield running


def _printed(vector: list[bytes]) -> bytes:
    return b"".join(word + b"\0" for word in vector)


def _collect(strategy: st.SearchStrategy[list[bytes]], count: int) -> list[list[bytes]]:
    """Return `count` examples, so that they can be tried at the same time."""
    found: list[list[bytes]] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(vector: list[bytes]) -> None:
        found.append(vector)

    collect()
    return found


def test_every_hard_word_in_one_run(apppot: AppPot) -> None:
    vector = list(HARD)
    done = apppot.run(*ARGUMENTS, *vector)
    assert done.status == 0, done.stderr
    assert done.stdout == _printed(vector)
    assert done.stderr == b""


@pytest.mark.parametrize("word", HARD[:12])
def test_a_hard_word_alone_after_the_separator(machine: Running, word: bytes) -> None:
    done = machine.exec(*ARGUMENTS, word)
    assert (done.status, done.stdout, done.stderr) == (0, word + b"\0", b"")


def test_two_hundred_vectors(machine: Running) -> None:
    vectors = _collect(VECTORS, 200)
    assert len(vectors) >= 150  # hypothesis gives no example twice
    ident = machine.ident
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda v: machine.exec(*ARGUMENTS, *v, ident=ident), vectors))
    for vector, done in zip(vectors, found, strict=True):
        assert (done.status, done.stderr) == (0, b"")
        assert done.stdout == _printed(vector)


def test_many_long_arguments(apppot: AppPot) -> None:
    vector = [bytes([65 + n % 26]) * 1000 for n in range(1000)]
    done = apppot.run("sh", "-c", 'printf "%s\\0" "$@"', "sh", *vector)
    assert done.status == 0, done.stderr
    assert done.stdout == _printed(vector)


def test_more_than_the_guest_takes_is_an_error(apppot: AppPot) -> None:
    # The most that Linux takes is a quarter of the stack's limit, 2 MiB of 8 MiB.
    if resource.getrlimit(resource.RLIMIT_STACK)[1] != resource.RLIM_INFINITY:
        pytest.skip("the limit on the stack cannot be raised here, so the host refuses first")
    before = resource.getrlimit(resource.RLIMIT_STACK)
    vector = [b"x" * 100_000] * 40
    resource.setrlimit(resource.RLIMIT_STACK, (32 << 20, before[1]))
    try:
        done = apppot.run("true", *vector)
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)
    assert done.status == 126
    assert "Argument list too long" in done.complaint
    assert len(done.complaint) < 300  # without the 2.5 MB


def test_separators_are_the_payloads_after_the_first(apppot: AppPot) -> None:
    done = apppot.run("--", "-x", "--", "--memory", "1")
    assert done.status == 127
    assert "'--'" in done.complaint
    plain = ("run", "--network=none", apppot.image, *ARGUMENTS, "--", "-v", "--")
    done = apppot.call(apppot.verb(*plain))
    assert (done.status, done.stdout) == (0, b"--\0-v\0--\0")


def _environment(raw: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b"=", 1) for line in raw.split(b"\0") if line)


def test_the_environment_starts_clean(apppot: AppPot) -> None:
    caller = apppot.having(SECRET_TOKEN="swordfish", LD_PRELOAD="", PYTHONHASHSEED="0")
    done = caller.run(*ENVIRONMENT)
    assert done.status == 0
    assert b"swordfish" not in done.stdout
    seen = _environment(done.stdout)
    assert set(seen) - {b"PWD"} == {b"PATH", b"HOME", b"USER", b"LOGNAME"}
    everywhere = caller.sh("cat /proc/*/environ /proc/cmdline 2>/dev/null | tr '\\0' '\\n'")
    assert b"PATH=" in everywhere.stdout
    assert b"swordfish" not in everywhere.stdout


def test_env_passes_on_and_sets(apppot: AppPot) -> None:
    caller = apppot.having(MINE="from the caller", OTHER="stays out", PATH=os.environ["PATH"])
    wanted = ("--env", "MINE", "-e", "SET=a=b\n c", "--env=EMPTY=", "--env", b"RAW=\xff\xfe")
    done = caller.run(*ENVIRONMENT, options=wanted)
    seen = _environment(done.stdout)
    assert seen[b"MINE"] == b"from the caller"
    assert seen[b"SET"] == b"a=b\n c"
    assert seen[b"EMPTY"] == b""
    assert seen[b"RAW"] == b"\xff\xfe"
    assert b"OTHER" not in seen


def test_the_last_of_two_values_counts(apppot: AppPot) -> None:
    done = apppot.run(*ENVIRONMENT, options=("-e", "A=1", "-e", "A=2", "-e", "HOME=/elsewhere"))
    raw = done.stdout.split(b"\0")
    assert [line for line in raw if line.startswith(b"A=")] == [b"A=2"]
    assert [line for line in raw if line.startswith(b"HOME=")] == [b"HOME=/elsewhere"]


def test_fifty_environments(machine: Running) -> None:
    ident = machine.ident
    strategy = st.lists(st.tuples(NAMES, WORDS), max_size=8, unique_by=lambda pair: pair[0]).map(
        lambda pairs: [b"X_" + name + b"=" + value for name, value in pairs]
    )
    vectors = _collect(strategy, 50)

    def one(pairs: list[bytes]) -> set[bytes]:
        options = [word for pair in pairs for word in ("--env", pair)]
        done = machine.exec("cat", "/proc/self/environ", options=options, ident=ident)
        assert done.status == 0, done.stderr
        return {line for line in done.stdout.split(b"\0") if line.startswith(b"X_")}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, vectors))
    assert found == [set(pairs) for pairs in vectors]
