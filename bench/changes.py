"""Changes: what they cost at the start, what saving them costs, and how big they are."""

from __future__ import annotations

import os
import statistics
import subprocess
import tarfile
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from bench.images import OFFLINE, apppot, archive, beyond, need, ratio, run
from bench.series import CaseError, Sample, Section, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.launch import Run
    from bench.measures import Bench

MEGABYTE = 10**6
NONE, UNPACKED = "no changes", "10 MB unpacked from .tar.gz, as in 2012"
ALONE, TAR, SAVE = "the run alone", "tar in the machine", "--save"
COPY = "cp -a /usr/lib /usr/share /opt/"
BIG = "bench-big:1"
BIG_SIZE = 400 * MEGABYTE
PLAIN, SORTED = "tar | zstd -9", "the same, sorted by name"
KEEP = "apppot changes save"
QUICK, SMALL = f"{KEEP} --compress zstd", f"{KEEP} --compress lzma"


def start(bench: Bench) -> list[Section]:
    """Start-up without changes and with a few and many, mounted."""
    from apppot.image import changes, pressing, store

    base = changes.base_of(store.resolve(bench.image))
    section = Section(
        "Start of `true` with changes", "ms", baseline=NONE, note="warm, without a network"
    )
    words = ("run", *OFFLINE, "--root")
    cases: dict[str, tuple[str, ...]] = {NONE: (*words, bench.image, "--", "true")}
    for size in (10, 200 if bench.quick else 2000):
        label = f"{size} MB" if size < 1000 else f"{size // 1000} GB"
        path = os.path.join(bench.work, f"{size}.changes")
        with tempfile.TemporaryFile(dir=bench.work) as tar:
            _random_archive(tar, size * MEGABYTE)
            changes.write(path, tar, base, {}, how=pressing.FASTEST)
        cases[label] = (*words, "--changes", path, bench.image, "--", "true")
    with tempfile.TemporaryFile(dir=bench.work) as tar:
        _random_archive(tar, 10 * MEGABYTE)
        with open(os.path.join(bench.share, "old.tar.gz"), "wb") as file:
            subprocess.run(["gzip"], stdin=tar, stdout=file, check=True)
    unpack = ("tar", "-C", "/var/tmp", "-xzf", "/job/old.tar.gz")
    cases[UNPACKED] = (*words, bench.image, "--", *unpack)

    def measure(case: tuple[str, ...]) -> float:
        return 1e3 * apppot(bench, *case).seconds

    take_turns(section, {k: partial(measure, v) for k, v in cases.items()}, bench.runs, bench.said)
    added = Section("What changes add to a start", "ms", note="of the series above, turn by turn")
    for case in list(cases)[1:]:
        added.samples[case] = beyond(section, case, NONE)
        if case != UNPACKED:
            added.at_most(case, 15)
    return [section, added]


def _random_archive(tar: object, size: int) -> None:
    """Write an archive of one incompressible file."""
    with tempfile.TemporaryFile(dir="/var/tmp") as content:
        for _ in range(size // MEGABYTE):
            content.write(os.urandom(MEGABYTE))
        content.seek(0)
        with tarfile.open(fileobj=tar, mode="w") as out:  # type: ignore[call-overload]
            member = tarfile.TarInfo("data")
            member.size = size
            out.addfile(member, content)
    tar.seek(0)  # type: ignore[attr-defined]


def saving(bench: Bench) -> list[Section]:
    """Save many files, beside tar, and one file on a big base: the time beyond the run."""
    return [*_saving_many(bench), *_saving_one(bench)]


def _series(bench: Bench, section: Section, cases: Mapping[str, Callable[[], float]]) -> Section:
    take_turns(section, cases, max(5, bench.runs // 3), bench.said)
    return section


def _saving_many(bench: Bench) -> list[Section]:
    """Time tar by the machine's clock, and --save from the payload's end on."""
    saved = os.path.join(bench.share, "saved.tar")
    ends: list[float] = []

    def tar() -> float:
        script = f"{COPY}; date +%s%N; tar -C /opt -cf /job/saved.tar . && date +%s%N"
        done = run(bench, (), bench.image, script)
        before, after = map(int, done.stdout.split())
        ends.append(_tail(done, after))
        return (after - before) / 1e9

    def save() -> float:
        options = ("--force", "--save", "bench-saved:1")
        done = run(bench, options, bench.image, f"{COPY}; date +%s%N")
        return _tail(done, int(done.stdout)) - statistics.median(ends)

    section = Section("Saving many files", "s", digits=2)
    _series(bench, section, {TAR: tar, SAVE: save})
    megabytes = os.path.getsize(saved) / MEGABYTE
    section.note = (
        f"{megabytes:.0f} MB, made with `{COPY}`; tar writes to the job folder; --save is what the"
        " whole command takes from the payload's end on, less what it takes without --save"
    )
    ratio(section, SAVE, TAR, 1.2)
    return [section]


def _tail(done: Run, end: int) -> float:
    """Return the seconds from the payload's end to the command's."""
    return done.seconds - (end - done.began) / 1e9


def _saving_one(bench: Bench) -> list[Section]:
    from apppot.image.store import Store

    own = Store(os.path.join(bench.work, "store"))
    found = _size(bench)
    fill = f"head -c {max(BIG_SIZE - found, MEGABYTE)} /dev/urandom >/opt/fill"
    run(bench, ("--save", BIG, "--force"), bench.image, fill)
    save = ("--force", "--save", "bench-one:1")

    def seconds(options: tuple[str, ...]) -> float:
        return run(bench, options, BIG, "echo changed >/etc/motd").seconds

    cases = {ALONE: partial(seconds, ()), SAVE: partial(seconds, save)}
    section = Section("One file changed on a base of 400 MB", "s", digits=2)
    _series(bench, section, cases)
    more = Section("Saving one file, beyond the run", "s", digits=3)
    more.samples[SAVE] = beyond(section, SAVE, ALONE)
    more.at_most(SAVE, 0.3)
    size = Section("Size of one file's changes", "kB")
    entry = next(each for each in own.entries() if each.reference == "bench-one:1")
    size.samples[SAVE] = Sample((own.image(entry).layers[-1].size / 1000,))
    size.at_most(SAVE, 100)
    return [section, more, size]


def _size(bench: Bench) -> int:
    from apppot.image import store

    return sum(layer.size for layer in store.resolve(bench.image).layers)


def size(bench: Bench) -> list[Section]:
    """Compare changes files with tar and zstd, and tar and gzip; and how fast they are read."""
    from apppot.errors import KitError
    from apppot.image import changes, pressing, store

    need("tar", "zstd", "gzip")
    plain, ordered = (os.path.join(bench.work, f"files{n}.tar") for n in range(2))
    archive(bench, plain)
    archive(bench, ordered, ordered=True)
    section = Section(
        "Size of changes", "MB", baseline=PLAIN, digits=2,
        note=f"{os.path.getsize(plain) / MEGABYTE:.0f} MB of files"
        + (" that the programs' image has more" if bench.programs_image else ": the image's /usr"),
    )  # fmt: skip
    for case, found in {
        PLAIN: _packed(["zstd", "-9"], plain),
        SORTED: _packed(["zstd", "-9"], ordered),
        "tar | gzip, as in 2012": _packed(["gzip"], plain),
    }.items():
        section.samples[case] = Sample((found / MEGABYTE,))
    reading = Section(
        "First reading of all these files", "s", baseline=KEEP, digits=2,
        note="in a fresh machine, by `cat`; the host has the changes file in memory",
    )  # fmt: skip
    cases: dict[str, Callable[[], float]] = {}
    base = changes.base_of(store.resolve(bench.image))
    for number, (case, method) in enumerate({KEEP: "", QUICK: "zstd", SMALL: "lzma"}.items()):
        target = os.path.join(bench.work, f"size-{number}.changes")
        try:
            how = pressing.wanted(method)
        except KitError as error:
            section.missing[case] = reading.missing[case] = error.message
            continue
        with open(plain, "rb") as file:
            made = changes.write(target, file, base, {}, how=how)
        section.samples[case] = Sample((made.size / MEGABYTE,))
        if case == KEEP:
            section.times_baseline(case, most=1.05)
        cases[case] = partial(_read, bench, target)
    take_turns(reading, cases, max(3, bench.runs // 3), bench.said)
    return [section, reading]


def _read(bench: Bench, target: str) -> float:
    """Return the seconds that it takes to read the files of a changes file for the first time."""
    read = "xargs -0 cat </job/list >/dev/null 2>&1"  # links to folders cannot be read
    script = f"cd /; date +%s%N; {read}; date +%s%N"
    before, after = map(int, run(bench, ("--changes", target), bench.image, script).stdout.split())
    return (after - before) / 1e9


def _packed(words: list[str], path: str) -> int:
    with open(path, "rb") as file, tempfile.TemporaryFile(dir=os.path.dirname(path)) as out:
        if subprocess.run(words, stdin=file, stdout=out, check=False).returncode:
            raise CaseError(f"{words[0]} failed")
        return out.seek(0, os.SEEK_END)
