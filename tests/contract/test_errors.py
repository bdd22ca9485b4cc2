"""Contract: errors say what was tried, what was found and what to do, in one or two lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

IMAGE = "debian:bookworm"
RUN = [
    [],
    [""],
    ["no-such-image"],
    ["bad image name!"],
    ["../../etc/passwd"],
    ["sha256:" + "0" * 64],
    ["--no-such-option", IMAGE, "true"],
    ["--memory", "lots", IMAGE, "true"],
    ["--memory", "1M", IMAGE, "true"],
    ["--memory", "-5", IMAGE, "true"],
    ["--memory", "999999999T", IMAGE, "true"],
    ["--memory"],
    ["--cpus", "0", IMAGE, "true"],
    ["--cpus", "x", IMAGE, "true"],
    ["--cpus", "²", IMAGE, "true"],
    ["--cpus", "65", IMAGE, "true"],
    ["--scratch", "12", IMAGE, "true"],
    ["--scratch", "x", IMAGE, "true"],
    ["--time-limit", "soon", IMAGE, "true"],
    ["--time-limit", "-1", IMAGE, "true"],
    ["--grace", "nan", IMAGE, "true"],
    ["--hostname", "", IMAGE, "true"],
    ["--hostname", "a b", IMAGE, "true"],
    ["--hostname", "x" * 100, IMAGE, "true"],
    ["--network", "bridge", IMAGE, "true"],
    ["--job-dir", "/no/such/folder", IMAGE, "true"],
    ["--job-dir", "/etc/passwd", IMAGE, "true"],
    ["--job-dir", "", IMAGE, "true"],
    ["--job-dir", "/tmp", "--no-job-dir", IMAGE, "true"],
    ["--bind", "/no/such/folder", IMAGE, "true"],
    ["--bind", "/etc:relative", IMAGE, "true"],
    ["--bind", "/etc:/", IMAGE, "true"],
    ["--bind", "/etc:/job", IMAGE, "true"],
    ["--bind", "a:b:c:d", IMAGE, "true"],
    ["--bind", "", IMAGE, "true"],
    ["--env", "", IMAGE, "true"],
    ["--env", "=x", IMAGE, "true"],
    ["--env", "NOT_SET_ANYWHERE_4711", IMAGE, "true"],
    ["--user", "no such user", IMAGE, "true"],
    ["--user", "99999999999", IMAGE, "true"],
    ["--user", "1:2:3", IMAGE, "true"],
    ["--workdir", "/no/such/folder", IMAGE, "true"],
    ["--workdir", "relative", IMAGE, "true"],
    ["--report", "/no/such/folder/report", IMAGE, "true"],
    ["--report", "/", IMAGE, "true"],
    ["--kernel-arg", "mem=1G", IMAGE, "true"],
    ["--kernel-arg", "x hostfs=/", IMAGE, "true"],
    ["--kernel-arg", "hostfs=/", IMAGE, "true"],
    ["--kernel-arg", "", IMAGE, "true"],
    ["--uml-mode", "magic", IMAGE, "true"],
    ["-t", IMAGE, "true"],
]
OTHERS = [
    ["no-such-verb"],
    ["rnu"],
    [],
    ["--no-such-option"],
    ["exec"],
    ["exec", "ffff"],
    ["exec", "ffff", "true"],
    ["stop"],
    ["stop", "ffff"],
    ["logs", "ffff"],
    ["ps", "extra"],
    ["inspect", "no-such-image"],
    ["rm", "no-such-image"],
    ["shell", "no-such-image"],
    ["completion", "powershell"],
]


def _check(complaint: str) -> None:
    lines = complaint.splitlines()
    assert "Traceback" not in complaint
    assert 1 <= len(lines) <= 2, complaint
    assert lines[0].startswith("apppot: "), complaint
    assert all(len(line) < 400 for line in lines)


@pytest.mark.parametrize("words", RUN, ids=" ".join)
def test_run_tells_what_is_wrong(apppot: AppPot, words: list[str]) -> None:
    mine = [apppot.image if word == IMAGE else word for word in words]
    done = apppot.call(apppot.verb("run", *mine))
    assert (done.status, done.stdout) == (125, b""), done
    _check(done.complaint)


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_verbs_tell_what_is_wrong(apppot: AppPot, words: list[str]) -> None:
    done = apppot.call(apppot.verb(*words))
    assert done.status in ((125,) if words[:1] in (["exec"], ["shell"]) else (1, 2)), done
    assert done.stdout == b""
    _check(done.complaint)


@pytest.mark.parametrize("name", ["APPPOT_STORE", "APPPOT_KIT", "APPPOT_RUNTIME_DIR"])
@pytest.mark.parametrize("value", ["/proc/no/such/folder", "/dev/null", "/etc/passwd/x"])
def test_a_folder_of_ours_that_cannot_be_used(apppot: AppPot, name: str, value: str) -> None:
    """Another runtime folder is found; without store or kit there is no run."""
    done = apppot.having(**{name: value}).sh("echo no")
    if name == "APPPOT_RUNTIME_DIR" and done.status == 0:
        assert (done.stdout, done.stderr) == (b"no\n", b"")
        return
    assert (done.status, done.stdout) == (125, b""), done
    _check(done.complaint)
