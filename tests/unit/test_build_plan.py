"""Containerfiles: parsed, cut into stages, and turned into steps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apppot.errors import AppPotError, UsageError
from apppot.image import containerfile
from apppot.image.build import evaluate, planner
from apppot.image.build.model import Config, Copy, Evaluated, Folder, Run

pytest.importorskip("dockerfile", reason="the library 'dockerfile' is not installed")


def plan(text: str, target: str = "", **given: str) -> planner.Plan:
    return planner.plan(containerfile.parse(text), given, target)


def steps(text: str, base: Config | None = None, **given: str) -> Evaluated:
    """Return the last stage's steps; earlier stages give it their configuration."""
    made = plan(text, **given)
    found: dict[int, Evaluated] = {}
    for index in made.order:
        stage = made.stages[index]
        parent = found[stage.parent] if stage.parent is not None else None
        found[index] = evaluate.evaluate(
            made,
            stage,
            parent.config if parent else base or Config(),
            given,
            inherited=parent.arguments if parent else (),
        )
    return found[made.order[-1]]


def actions(text: str, base: Config | None = None, **given: str) -> list[Any]:
    return [step.action for step in steps(text, base, **given).steps if step.action]


def config(text: str, base: Config | None = None, **given: str) -> dict[str, Any]:
    return steps(text, base, **given).config.written()


def complaint(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        steps(text)
    assert re.match(r"Containerfile(:\d+)?: ", caught.value.message)
    return caught.value.message


# -- the text ---------------------------------------------------------------------------------


def test_continuations_comments_and_the_escape() -> None:
    (run,) = actions("# escape=`\nFROM a\nRUN one `\n# no\n\n  two \\`\nthree")
    assert run.argv == ("/bin/sh", "-c", "one   two \\three")


def test_json_and_what_only_looks_like_it() -> None:
    exec_form, shell_form = actions("FROM a\nRUN [\"x\", \"a b\"]\nRUN ['x', 'y']")
    assert exec_form.argv == ("x", "a b")
    assert shell_form.argv == ("/bin/sh", "-c", "['x', 'y']")


def test_heredocs() -> None:
    text = """FROM a
ENV v=1
RUN <<EOF
one $v
two
EOF
RUN <<EOF
#!/usr/bin/python3
print()
EOF
RUN cat <<A >x && cat <<-'B'
a
A
\tb
B
COPY <<X <<-"Y" /d/
$v \\$v 'q'
X
\t$v
Y
"""
    script, program, several, copy = actions(text)
    assert script.argv == ("/bin/sh", "-c", "one $v\ntwo\n")
    assert program.argv == ("/dev/pipes/EOF",)
    assert program.script.content == "#!/usr/bin/python3\nprint()\n"
    assert several.argv[2].startswith("cat <<A >x && cat <<-'B'\na\nA\n")
    assert several.argv[2].endswith("b\nB")
    assert [(file.name, file.content) for file in copy.files] == [
        ("X", "1 $v 'q'\n"),
        ("Y", "$v\n"),
    ]


def test_a_heredoc_before_its_command_is_its_input() -> None:
    (before,) = actions("FROM a\nRUN <<EOF cat >/x\nbody\nEOF\n")
    assert before.argv[2] == "<<EOF cat >/x\nbody\nEOF"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "no instructions"),
        ("# only this\n", 0, "no instructions"),
        ("ARG x=1", 0, "no FROM"),
        ("RUN x\nFROM a", 1, "before the first FROM"),
        ("FROM a\nFOO b", 2, "FOO is no instruction"),
        ("FROM a\n\n# c\nENV a", 4, "two arguments"),
        ("FROM a\nRUN x\nRUN <<EOF\ny\n", 3, "unterminated heredoc"),
        ("FROM a AS b c", 1, "FROM IMAGE"),
        ("FROM a AS 1b", 1, "name of a stage"),
        ("FROM a AS b\nFROM c AS B", 2, "already"),
        ("FROM $none", 1, "there is no name"),
        ("FROM --platform=linux/s390x a", 1, "machines here are linux/"),
        ("FROM a\nCOPY --foo=1 a b", 2, "--foo is not known"),
        ("FROM a\nCOPY --chown=1 --chown=2 a b", 2, "given twice"),
        ("FROM a\nCOPY --from=$x a b", 2, "--from=$x"),
        ("FROM a\nCOPY --from=0 a b", 2, "no such stage"),
        ("FROM a\nCOPY a", 2, "takes sources and a target"),
        ("FROM a\nCOPY a b c", 2, "needs a folder"),
        ("FROM a\nCOPY --chmod=u+x a b", 2, "not octal"),
        ("FROM a\nCOPY --chown=a:b:c a b", 2, "USER[:GROUP]"),
        ("FROM a\nADD git@x:y z", 2, "web servers"),
        ("FROM a\nADD --checksum=md5:1 http://x/y z", 2, "--checksum"),
        ("FROM a\nRUN", 2, "needs an argument"),
        ("FROM a\nRUN --mount=type=cache,target=/x y", 2, "--mount is not supported"),
        ("FROM a\nRUN --network=host y", 2, "--network=host"),
        ("FROM a\nSHELL bash", 2, "JSON list"),
        ("FROM a\nENV x=${a", 2, "no closing }"),
        ("FROM a\nENV x=${a?needed}", 2, "needed"),
        ("FROM a\nUSER $none", 2, "nothing is left"),
        ("FROM a\nEXPOSE http", 2, "PORT"),
        ("FROM a\nHEALTHCHECK foo", 2, "HEALTHCHECK"),
        ("FROM a\nHEALTHCHECK --interval=x CMD foo", 2, "not a number or time"),
        ("FROM a\nONBUILD FROM b", 2, "ONBUILD FROM"),
        ("# escape=x\nFROM a", 1, "escape=x"),
        ("FROM a\nARG 1=2", 2, "not a name"),
        ("FROM a\nRUN \0", 2, "NUL"),
    ],
)
def test_errors_name_the_line(text: str, line: int, words: str) -> None:
    message = complaint(text)
    assert words in message
    assert message.startswith(f"Containerfile:{line}: " if line else "Containerfile: ")


def test_a_file_that_is_not_utf8_names_the_line() -> None:
    with pytest.raises(UsageError, match="X:3: is not UTF-8"):
        containerfile.decode(b"a\nb\n\xff\n", "X")


_LINES = st.sampled_from(
    ["FROM a", "FROM a AS b", "RUN x", 'RUN ["x"]', "COPY a b", "COPY --from=b /x /y", "ENV a=$b",
     "ARG b", "ARG b=1", "USER u", "WORKDIR $b", "WORKDIR ..", "LABEL x=y", "CMD []", "\\", "# c",
     "RUN <<E", "E", 'SHELL ["b"]', "ONBUILD RUN y", "ADD x /", "HEALTHCHECK NONE", "EXPOSE 1-2"]
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(_LINES, st.text(max_size=20)), max_size=8))
@example(["\\"])
def test_any_lines_are_a_plan_or_an_error_that_names_the_file(lines: list[str]) -> None:
    try:
        found = steps("\n".join(lines)).steps
        message = ""
    except AppPotError as error:
        found, message = (), error.message
    assert message.startswith("Containerfile") or not message
    for step in found:
        assert step.instruction.line > 0
        if isinstance(step.action, Folder):
            assert step.action.path.startswith("/")
        if isinstance(step.action, Copy):
            assert step.action.target.startswith("/")


# -- stages -----------------------------------------------------------------------------------

STAGES = """
FROM a AS base
FROM b AS other
COPY --from=base /x /y
FROM c AS unused
FROM base AS last
COPY --from=1 /y /z
COPY --from=image:1 /y /z
"""


def test_only_what_the_target_needs() -> None:
    assert plan(STAGES).order == (0, 1, 3)
    assert plan(STAGES, "unused").order == (2,)
    assert plan(STAGES, "OTHER").order == (0, 1)
    assert plan(STAGES, "0").order == (0,)
    with pytest.raises(UsageError, match="no such stage") as caught:
        plan(STAGES, "x")
    assert "base, other, unused, last" in caught.value.hint


def test_where_copies_come_from() -> None:
    stage, image = actions(STAGES)
    assert (stage.stage, stage.image) == (1, "")
    assert (image.stage, image.image) == (None, "image:1")


# -- variables --------------------------------------------------------------------------------


def test_arguments_before_the_first_stage() -> None:
    text = "ARG V=1\nARG IMG=x:$V\nFROM ${IMG} AS a\nRUN x\nFROM a\nARG V\nRUN x"
    made = plan(text)
    assert made.stages[0].base == "x:1"
    assert plan(text, V="2").stages[0].base == "x:2"
    assert dict(actions(text)[-1].environment) == {"V": "1"}
    assert dict(actions(text, V="3")[-1].environment) == {"V": "3"}
    (outside,) = actions("ARG V=1\nFROM a\nRUN x")
    assert outside.environment == ()


def test_arguments_of_a_stage() -> None:
    text = "FROM a\nARG A\nARG B=b$A C=$B\nARG D=\nRUN x"
    assert dict(actions(text)[0].environment) == {"B": "b", "C": "b", "D": ""}
    assert dict(actions(text, A="1")[0].environment) == {"A": "1", "B": "b1", "C": "b1", "D": ""}


def test_the_environment_hides_arguments() -> None:
    text = "FROM a\nARG A=arg\nENV A=env\nRUN $A\nWORKDIR /$A"
    run, folder = actions(text, A="given")
    assert dict(run.environment) == {"A": "env"}
    assert folder.path == "/env"


def test_stages_inherit_what_they_begin_from() -> None:
    text = "FROM a AS one\nARG A=1\nENV E=2\nWORKDIR /w\nUSER u\nFROM one\nRUN x"
    (run,) = actions(text)
    assert dict(run.environment) == {"A": "1", "E": "2"}
    assert (run.directory, run.user) == ("/w", "u")


def test_one_env_sees_what_was_before_it() -> None:
    found = config("FROM a\nENV a=1\nENV a=2 b=$a\nENV old one two")
    assert found["Env"] == ["a=2", "b=1", "old=one two"]


def test_arguments_that_are_always_there() -> None:
    (run,) = actions("FROM a\nARG TARGETARCH\nRUN x")
    assert dict(run.environment)["TARGETARCH"] in ("amd64", "arm64", "riscv64")
    text = "FROM a\nRUN x"
    (run,) = actions(text, http_proxy="p", other="o")
    assert (run.environment, dict(run.proxies)) == ((), {"http_proxy": "p"})
    assert plan(text, http_proxy="p", other="o").unused == ("other",)


# -- instructions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/x", "/x"),
        ("/x/", "/x/"),
        ("x", "/w/x"),
        (".", "/w/"),
        ("./", "/w/"),
        ("..", "/"),
        ("/", "/"),
        ("../../../x/../y", "/y"),
        ("$V/z", "/v/z"),
    ],
)
def test_targets(target: str, wanted: str) -> None:
    copy = actions(f"FROM a\nENV V=/v\nWORKDIR /w\nCOPY a {target}")[-1]
    assert copy.target == wanted


def test_copies() -> None:
    text = 'FROM a\nARG U=u\nCOPY --chown=$U:1 --chmod=0750 --link ["a b", "$U", "/d/"]'
    (copy,) = actions(text)
    assert copy == Copy(("a b", "u"), "/d/", owner="u:1", mode=0o750)
    digest = "sha256:" + "0" * 64
    (add,) = actions(f"FROM a\nADD --checksum={digest} https://x/y.tar /d/")
    assert (add.unpack, add.checksum) == (True, digest)
    (add,) = actions("FROM a\nADD a https://x/y.tar /d/")
    assert (add.sources, add.checksum) == (("a", "https://x/y.tar"), "")


def test_folders() -> None:
    text = "FROM a\nWORKDIR b\nWORKDIR c/../d/\nUSER u:g\nWORKDIR /e"
    assert actions(text) == [Folder("/b"), Folder("/b/d"), Folder("/e", "u:g")]


def test_shells() -> None:
    text = 'FROM a\nSHELL ["/bin/bash", "-ec"]\nRUN x\nCMD y\nENTRYPOINT ["z"]\nRUN ["q"]'
    one, two = actions(text)
    assert (one.argv, two.argv) == (("/bin/bash", "-ec", "x"), ("q",))
    found = config(text)
    assert found["Cmd"] == ["/bin/bash", "-ec", "y"]
    assert found["Entrypoint"] == ["z"]


def test_an_entrypoint_takes_the_bases_command_away() -> None:
    base = Config(cmd=("bash",), entrypoint=("old",))
    assert "Cmd" not in config('FROM a\nENTRYPOINT ["x"]', base)
    assert config('FROM a\nCMD ["y"]', base)["Entrypoint"] == ["old"]
    assert config('FROM a\nCMD ["y"]\nENTRYPOINT ["x"]', base)["Cmd"] == ["y"]
    assert config("FROM a\nENTRYPOINT []", base)["Entrypoint"] == []


def test_configuration() -> None:
    text = """FROM a
LABEL "a b"="c d" e=$none
LABEL e=f
EXPOSE 80 443/UDP 1-2
VOLUME /v
VOLUME ["/x y", "/z"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1m30s --retries=2 CMD test -e /x
USER 1:2
MAINTAINER me too
ONBUILD RUN  a  b
"""
    found = config(text)
    assert found == {
        "Labels": {"a b": "c d", "e": "f"},
        "ExposedPorts": {"80/tcp": {}, "443/udp": {}, "1-2/tcp": {}},
        "Volumes": {"/v": {}, "/x y": {}, "/z": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {
            "Test": ["CMD-SHELL", "test -e /x"],
            "Interval": 90_000_000_000,
            "Retries": 2,
        },
        "User": "1:2",
        "OnBuild": ["RUN  a  b"],
    }
    assert steps(text).config.author == "me too"


def test_triggers_run_where_the_image_is_used() -> None:
    base = Config(triggers=("RUN x $V", "COPY . /d/"))
    run, copy = actions("FROM a", base)
    assert isinstance(run, Run)
    assert copy.target == "/d/"
    assert "OnBuild" not in config("FROM a", base)


def test_a_configuration_survives() -> None:
    text = {
        "config": {
            "Env": ["A=b=c", "B="],
            "Entrypoint": ["e"],
            "Cmd": ["c"],
            "Labels": {"l": "m"},
            "User": "u",
            "WorkingDir": "/w",
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": {"/v": {}},
            "StopSignal": "SIGTERM",
            "Healthcheck": {"Test": ["NONE"], "Interval": 5},
            "OnBuild": ["RUN x"],
            "Shell": ["/bin/sh"],
        }
    }
    assert Config.read(text).written() == text["config"]
    assert Config.read({"config": {"Env": None, "Labels": [], "Cmd": "x"}}).written() == {}
