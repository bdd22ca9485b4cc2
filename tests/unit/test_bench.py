"""The benchmark's arithmetic and its pages; what it measures is measured by running it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.machine import virtiofs
from bench import (
    applications,
    channel,
    launch,
    python_part,
    report,
    shares,
    sides,
    stock,
    stock_run,
)
from bench.measures import MEASURES, Bench, build_programs
from bench.peers import APPPOT, NATIVE, Peer, Peers
from bench.series import CaseError, Ended, Goal, Sample, Section, take_turns, take_turns_of
from bench.sides import STOCK

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = st.floats(0.001, 1e9)


@given(st.lists(NUMBERS, min_size=1))
def test_a_median_lies_between_its_extremes(values: list[float]) -> None:
    sample = Sample(tuple(values))
    assert sample.low <= sample.median <= sample.high
    assert sum(v <= sample.median for v in values) * 2 >= len(values)


def test_cases_take_turns_and_the_first_turn_is_thrown_away() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    section = Section("t", "s")
    take_turns(section, {"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert section.samples == {"a": Sample((3.0, 5.0)), "b": Sample((4.0, 6.0))}


def test_cases_with_several_numbers_fill_several_sections() -> None:
    def broken() -> tuple[float, ...]:
        raise CaseError("no folder")

    sections = [Section("large", "s"), Section("small", "s", missing={"b": "known before"})]
    cases = {"a": lambda: (1.0, 2.0), "b": lambda: (3.0, 4.0), "c": broken}
    take_turns_of(sections, cases, 2)
    assert sections[0].samples == {"a": Sample((1.0, 1.0)), "b": Sample((3.0, 3.0))}
    assert sections[1].samples == {"a": Sample((2.0, 2.0))}
    assert sections[0].missing == {"c": "no folder"}
    assert sections[1].missing == {"b": "known before", "c": "no folder"}
    cold = Section("cold", "s")
    values = iter([(1.0,), (2.0,)])
    take_turns_of([cold], {"a": lambda: next(values)}, 2, warm=False)
    assert cold.samples == {"a": Sample((1.0, 2.0))}


def test_a_case_that_fails_once_is_dropped_with_its_reason() -> None:
    values = iter([1.0, 2.0])

    def measure() -> float:
        try:
            return next(values)
        except StopIteration:
            raise CaseError("out of values") from None

    section = Section("t", "s", baseline="bad")
    take_turns(section, {"bad": measure, "good": lambda: 1.0}, 5)
    assert section.missing == {"bad": "out of values"}
    assert list(section.samples) == ["good"]
    assert section.ratio("good") is None


def test_an_end_without_a_number_is_a_result() -> None:
    def panic() -> float:
        raise Ended("Kernel panic - not syncing: gone | for ever")

    section = Section("t", "s", baseline=NATIVE)
    take_turns(section, {NATIVE: lambda: 2.0, STOCK: panic, APPPOT: lambda: 3.0}, 3)
    assert section.outcomes == {STOCK: "Kernel panic - not syncing: gone | for ever"}
    assert not section.missing
    page = report.markdown([section], {}, "bench/run", "p.svg")
    assert "| t, s | 2.0 | Kernel panic - not syncing: gone / for ever | 3.0 (1.50) | - |" in page
    rows = [line for line in page.splitlines() if line.startswith((f"| {STOCK}", "| case"))]
    assert len(rows) == 2
    assert rows[0].count("|") == rows[1].count("|")
    assert json.loads(report.data([section], {}))["sections"][0]["outcomes"]


@pytest.mark.parametrize(("value", "at_most", "speed"), [(13, True, True), (20, False, False)])
def test_goals_in_terms_of_the_baseline(value: float, at_most: bool, speed: bool) -> None:
    section = Section("t", "s", baseline=NATIVE)
    section.samples = {NATIVE: Sample((10.0,)), APPPOT: Sample((value,))}
    section.times_baseline(APPPOT, most=1.3)
    section.times_baseline(APPPOT, least_speed=0.7)
    section.times_baseline("not there", most=1.3)
    assert [goal.met for goal in section.goals] == [at_most, speed, None]


def test_stock_configuration_lacks_what_the_patches_bring() -> None:
    ours = (
        "CONFIG_SMP=y\nCONFIG_UML_HOSTPIPE=y\nCONFIG_TRANSPARENT_HUGEPAGE_MADVISE=y\nCONFIG_NET=y\n"
    )
    assert stock.fragment(ours) == "CONFIG_SMP=y\nCONFIG_NET=y\n"


@pytest.mark.parametrize(
    ("console", "status", "expected"),
    [
        (b"bench: alive\r\n\nbench: status 3\r\n", 0, (3, "")),
        (
            b"Kernel panic - not syncing: Segfault with no mm\r\nmore",
            -6,
            (125, "Kernel panic - not syncing: Segfault with no mm"),
        ),
        (
            b"bench: cannot mount a layer: No such device\n",
            0,
            (125, "bench: cannot mount a layer: No such device"),
        ),
        (b"bench: alive\n", -9, (125, "no end within 7 s")),
        (b"", 1, (125, "the stock kernel ended early with status 1")),
    ],
)
def test_how_a_stock_kernel_ended(console: bytes, status: int, expected: tuple[int, str]) -> None:
    assert stock_run.ending(console, status, 7) == expected


def test_stock_command_line() -> None:
    words = ["--kernel", "k", "--initrd", "i", "--share", "/s", "--layer", "a", "--layer", "b"]
    options = stock_run.parser().parse_args([*words, "--ncpus", "2", "--", "sh", "-c", "true"])
    assert options.command == ["sh", "-c", "true"]
    found = stock_run.kernel_arguments(options, "script", "/u", 7, 8)
    assert {"ubd0rc=a", "ubd1rc=b", "layers=2", "ncpus=2", "con1=fd:7,fd:7"} <= set(found)
    one = stock_run.parser().parse_args([*words, "--", "true"])
    assert not [w for w in stock_run.kernel_arguments(one, "", "/u", 7, 8) if "ncpus" in w]


def a_bench(folder: Path, apppot: str) -> Bench:
    return Bench(
        apppot=apppot,
        image="i",
        programs_image="",
        share=str(folder),
        work=str(folder),
        peers=Peers(),
        runs=3,
        quick=True,
        machines=1,
        said=lambda _: None,
    )


def test_without_a_stock_kernel_the_others_are_measured(tmp_path: Path) -> None:
    tool = tmp_path / "apppot"
    tool.write_text("#!/bin/sh\necho 30\n")
    tool.chmod(0o755)
    bench = a_bench(tmp_path, str(tool))
    section = Section("t", "s")
    sides.compare(bench, section, lambda peer: bench.run(peer, "echo", "10").number())
    assert section.missing == {STOCK: "not asked for"}
    assert section.ratio(APPPOT) == 3
    for name in applications.MEASURES:
        with pytest.raises(CaseError, match="no --programs-image"):
            MEASURES[name](bench)


def test_folders_are_measured_only_where_they_are_of_the_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for apppot: hostfs works, QEMU's folder is another one, virtiofsd is missing."""
    build_programs(str(tmp_path))
    os.symlink(".", tmp_path / "job")
    tool = tmp_path / "apppot"
    run = f'"{tmp_path}/share" 1 2 "{tmp_path}"'
    tool.write_text(f"#!/bin/sh\ncase $* in *df*) echo Type; echo hostfs;; *) {run};; esac\n")
    tool.chmod(0o755)
    launcher = tmp_path / "launcher.py"
    launcher.write_text("import sys\nsys.exit('no kvm' if 'kvm' in sys.argv else print('ext4'))\n")
    monkeypatch.setattr(shares, "_LAUNCHER", str(launcher))
    monkeypatch.setattr(virtiofs, "program", lambda **_: None)
    for name in ("FEWEST_DESCRIPTORS", "EVEN_TRANSLATED"):
        monkeypatch.setattr(virtiofs, name, getattr(virtiofs, name))
    sections = shares.shares(a_bench(tmp_path, str(tool)))
    assert len(sections) == 6
    without = "there is no virtiofsd of 1.13 or later"
    for section in sections:
        assert set(section.samples) == {NATIVE, "uml: hostfs"}
        assert section.missing == {
            "kvm: 9p": "status 1: no kvm",
            "kvm: virtiofs": without,
            "tcg: 9p": "the folder is ext4",
            "tcg: virtiofs": without,
        }


def test_a_stream_that_lost_something_is_no_rate() -> None:
    def run(text: bytes) -> launch.Run:
        return launch.Run(1.0, 0, 0.0, b"", text)

    assert channel.rate(run(b"1000 4000"), 4000) == 4000
    for text in (b"1000 3999", b"", b"x y"):
        with pytest.raises(CaseError):
            channel.rate(run(text), 4000)


@pytest.mark.parametrize(
    ("value", "at_most", "at_least"), [(9.0, True, False), (10.0, True, True), (11.0, False, True)]
)
def test_goals(value: float, at_most: bool, at_least: bool) -> None:
    section = Section("t", "ms", samples={"a": Sample((value,))})
    section.at_most("a", 10)
    section.at_least("a", 10)
    section.at_most("not there", 10)
    assert [goal.met for goal in section.goals] == [at_most, at_least, None]


def section_with_everything() -> Section:
    return Section(
        "Start <&> `true`",
        "ms",
        samples={"apppot": Sample((1.0, 2.0, 3.0)), "podman": Sample((4.0,))},
        missing={"Apptainer": "not installed | at all"},
        goals=[Goal("fast", "2.0 ms", True), Goal("faster", "2.0 ms", False)],
        baseline="podman",
    )


def test_page() -> None:
    page = report.markdown([section_with_everything()], {"Host": "vm-2cpu"}, "bench/run", "p.svg")
    assert "| apppot | 2.0 | 1.0 | 3.0 | 3 | 0.50 |" in page
    assert "| Start <&> `true`: faster | 2.0 ms | **no** |" in page
    assert "- Apptainer: not measured: not installed / at all" in page
    tables = [line for line in page.splitlines() if line.startswith("| apppot")]
    heads = [line for line in page.splitlines() if line.startswith("| case")]
    assert {line.count("|") for line in tables} == {line.count("|") for line in heads}


def test_plot_is_xml_and_within_its_bounds() -> None:
    root = ET.fromstring(report.svg([section_with_everything(), Section("empty", "s")]))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    shapes = [one for one in root if one.tag.endswith(("rect", "line"))]
    assert len(shapes) == 1 + 2 * 2  # the ground; a bar and a line for each case
    for shape in shapes:
        for name in ("x", "x1", "x2"):
            assert 0 <= float(shape.attrib.get(name, 0)) <= width
        assert float(shape.attrib.get("y", 0)) + float(shape.attrib.get("height", 0)) <= height


def test_data_can_be_read_back() -> None:
    read = json.loads(report.data([section_with_everything()], {"Host": "x"}))
    assert read["sections"][0]["values"]["apppot"] == [1.0, 2.0, 3.0]


def test_a_peer_puts_its_own_name_for_the_shared_folder() -> None:
    peer = Peer("p", ("tool", "run"), job="/elsewhere")
    assert peer.argv("@/first", "-x", "@/.") == [
        *("tool", "run", "/elsewhere/first", "-x", "/elsewhere/."),
    ]
    with pytest.raises(CaseError, match="not installed"):
        Peers(missing={"q": "not installed"}).named("q")
    assert APPPOT == "apppot"


def test_failures_are_told_without_paths() -> None:
    with pytest.raises(CaseError, match=r"^not installed$"):
        launch.launch(["/nonexistent/tool"])
    script = "import sys; sys.exit('first\\ncannot open /home/someone/x: gone\\nhint: look')"
    with pytest.raises(CaseError) as caught:
        launch.launch([sys.executable, "-c", script])
    assert str(caught.value) == "status 1: cannot open PATH gone"


def test_environment_has_nothing_that_changes_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = launch.environment({"A": "b"})
    assert found["A"] == "b"
    assert not [name for name in found if name.startswith("PYTHON")]


def test_descendants_and_pss() -> None:
    words = [
        sys.executable,
        "-c",
        "import os,time; os.fork(); os.write(1, b'1\\n'); time.sleep(60)",
    ]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        assert child.stdout.readline() == child.stdout.readline() == b"1\n"
        below = launch.descendants(os.getpid())
        assert child.pid in below
        grandchildren = launch.descendants(child.pid)
        assert len(grandchildren) == 1
        assert set(grandchildren) < set(below)
        assert launch.pss(child.pid) > 1 << 18
    finally:
        for pid in (*launch.descendants(child.pid), child.pid):
            os.kill(pid, 9)
        child.communicate()
    assert launch.pss(child.pid) == 0


def test_imports_are_read_from_pythons_own_list() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = python_part.imports(done.stderr)
    assert {"os", "site", "json", "json.decoder"} <= set(found)
    assert found["json"][1] >= found["json.decoder"][1]
    later = python_part.after_site(found)
    assert "json" in later
    assert "os" not in later
    assert python_part.foreign({**later, "_no_such_module": (1, 1)}) == []
    assert python_part.foreign({**later, "hypothesis.core": (1, 1)}) == ["hypothesis"]


def test_programs(tmp_path: Path) -> None:
    """The programs print what the measures read; natively, as the yardstick is."""
    build_programs(str(tmp_path))

    def run(*words: str, stdin: int = subprocess.DEVNULL) -> launch.Run:
        return launch.launch([str(tmp_path / words[0]), *words[1:]], stdin=stdin)

    first = run("first")
    assert first.began <= first.number() <= first.began + 1e9 * first.seconds
    for operation in (
        ["getppid"],
        ["turns"],
        ["spawn"],
        ["fault"],
        ["touch"],
        ["create", str(tmp_path)],
    ):
        assert 0 < run("micro", *operation).number() < 1e9
    poured = run("stream", "pour", "1000000")
    assert len(poured.stdout) == 1000000
    assert poured.stderr.split()[1] == b"1000000"
    source = subprocess.Popen(["head", "-c", "300001", "/dev/zero"], stdout=subprocess.PIPE)
    assert source.stdout
    drained = run("stream", "drain", stdin=source.stdout.fileno())
    source.stdout.close()
    source.wait()
    assert drained.stderr.split()[1] == b"300001"
    counted = subprocess.Popen(["head", "-c", "300001", "/dev/zero"], stdout=subprocess.PIPE)
    assert counted.stdout
    assert run("stream", "drain", "100000", stdin=counted.stdout.fileno()).stderr.split()[1:] == [
        b"100000"
    ]
    counted.stdout.close()
    counted.wait()
    assert 0.1 < run("openmp", "2").number() < 10
    for operation in (["scatter", "1"], ["write", "1", f"{tmp_path}/w"], ["files", "9", "."]):
        assert run("load", *operation).number() > 0
    numbers = list(map(float, run("share", "1", "3", str(tmp_path)).stdout.split()))
    assert len(numbers) == 6
    assert min(numbers) > 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith("share-")]
    with pytest.raises(CaseError, match="status 2"):
        run("compute", "nonsense")
