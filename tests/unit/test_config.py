"""Settings come from files, variables and options, and nonsense in a file is told with its line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot import config, paths
from apppot.__main__ import main
from apppot.errors import UsageError
from apppot.image.exclude import configured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "reference", "configuration.md")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that writes the user's and the site's file."""
    for setting in config.SETTINGS:
        if setting.variable:
            monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("APPPOT_CONFIG", raising=False)
    monkeypatch.setattr(paths, "SITE_CONFIG", str(tmp_path / "site.toml"))

    def write(user: str | bytes = "", site: str = "") -> None:
        folder = tmp_path / "home" / "apppot"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_bytes(user if isinstance(user, bytes) else user.encode())
        (tmp_path / "site.toml").write_text(site)
        config.forget()

    config.forget()
    yield write
    config.forget()


def test_without_files_there_are_the_defaults(files: Any, tmp_path: Path) -> None:
    assert {value.source for value in config.values()} == {"default"}
    assert config.number("cache.days") == 30
    own = str(tmp_path / "data" / "apppot" / "store")
    assert paths.store_dirs()[0] == own == paths.store_dir()


def test_the_last_one_wins(
    files: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files('run.memory = "2G"', 'stores = ["/site/a", "/site/b"]\n[run]\nmemory = "3G"\n')
    assert config.text("run.memory") == "2G"
    assert paths.store_dirs()[1:3] == ("/site/a", "/site/b")
    monkeypatch.setenv("APPPOT_MEMORY", "4G")
    assert config.text("run.memory") == "4G"
    assert main(["config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run.memory"] == {"value": "4G", "source": "APPPOT_MEMORY"}
    assert shown["stores"] == {"value": ["/site/a", "/site/b"], "source": paths.SITE_CONFIG}
    assert main(["config", "stores"]) == 0
    assert capsys.readouterr().out == "/site/a\n/site/b\n"
    assert main(["config"]) == 0
    assert 'run.memory = "4G"  # APPPOT_MEMORY' in capsys.readouterr().out
    assert main(["config", "nothing"]) == 2


def test_the_variable_for_stores_replaces_as_much_as_it_has(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files('store = "/mine"\nstores = ["/site"]')
    system = tuple(os.path.join(base, "store") for base in paths.SYSTEM_DATA)
    for given_, expected in {
        "": ("/mine", "/site"),
        "/a": ("/a", "/site"),
        "/a:/b:/c": ("/a", "/b", "/c"),
        ":/b": ("/mine", "/b"),
        "/a:": ("/a",),
    }.items():
        monkeypatch.setenv("APPPOT_STORE", given_)
        assert paths.store_dirs() == (*expected, *system)


def test_paths_are_expanded(files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SITE", "/site")
    files('store = "~/store"\nstores = ["$SITE/${SITE}x/../y"]')
    assert paths.store_dirs()[:2] == (str(tmp_path / "store"), "/site/y")
    files('store = "relative"')
    with pytest.raises(UsageError, match="no absolute path"):
        paths.store_dir()
    files('store = "/x/$NOT_SET_ANYWHERE"\nscratch.folder = "/x/$NOT_SET_ANYWHERE"')
    with pytest.raises(UsageError, match="not set"):
        paths.store_dir()
    assert paths.scratch_dir()  # a job's variable outside of jobs
    files(f'scratch.folder = "{tmp_path}"')
    assert paths.scratch_dir() == str(tmp_path)


def test_the_sites_file_may_be_elsewhere(
    files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text('run.memory = "5G"')
    files("", 'run.memory = "1M"')
    monkeypatch.setenv("APPPOT_CONFIG", str(tmp_path / "other.toml"))
    config.forget()
    assert config.text("run.memory") == "5G"
    monkeypatch.setenv("APPPOT_CONFIG", str(tmp_path / "none.toml"))
    config.forget()
    with pytest.raises(UsageError, match="does not exist"):
        config.text("run.memory")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = \n", ("not proper TOML", "line 1")),
        (b"\xff", ("not proper TOML",)),
        ("[run]\n\nmemmory = '1G'", ("'run.memmory' (line 3)", "did you mean 'run.memory'?")),
        ("x = 1\ny = 2", ("unknown keys 'x' (line 1), 'y' (line 2)",)),
        ("[run]\nmemory = 5", ("'run.memory' (line 2)", "must be a text", "5")),
        ("stores = 'a'", ("must be a list of paths",)),
        ("stores = [1]", ("must be a list of paths",)),
        ("store = ''", ("must be a path",)),
        ("run = {}", ("unknown key 'run'",)),
        ("cache.days = true", ("must be a number",)),
        ("cache.days = -1", ("must be a number",)),
        ("[signatures]\nrequire = 'maybe'", ("must be one of none, cosign, gpg", "line 2")),
        ("[[stores]]\na = 1", ("must be a list of paths", "line 1")),
        ("a = " + "[" * 5000, ("not proper TOML",)),
    ],
)
def test_nonsense_is_told(
    content: str | bytes, words: tuple[str, ...], files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files(content)
    for arguments, status in ((["config"], 2), (["run", "a:1"], 125), (["images"], 2)):
        assert main(arguments) == status
        told = capsys.readouterr().err
        assert all(word in told for word in (*words, "apppot/config.toml"))


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(), st.booleans(), st.text(max_size=5), st.just([]), st.just(["a"])
)


@given(st.dictionaries(st.sampled_from([s.key for s in config.SETTINGS] + ["x.y", "run"]), VALUES))
def test_any_settings_are_taken_or_told(table: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    try:
        found = config._parse("FILE", text.encode())
    except UsageError as error:
        told = error.message
    else:
        told = "FILE" if found.keys() == table.keys() else "lost"
    assert "FILE" in told


@given(st.binary(max_size=60))
def test_any_bytes_are_taken_or_told(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert config._parse("FILE", data) == {}


def test_a_file_that_cannot_be_read_is_told(files: Any, tmp_path: Path) -> None:
    (tmp_path / "home" / "apppot" / "config.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot read"):
        config.text("run.memory")


def test_every_key_is_documented_with_its_variable() -> None:
    with open(PAGE, encoding="utf-8") as file:
        rows = re.findall(
            r"^\| `([a-z.]+)` \| \w+ \| .*? \| (?:`(\w+)`[^|]*)?\|", file.read(), re.MULTILINE
        )
    assert rows == [(setting.key, setting.variable) for setting in config.SETTINGS]


def test_without_files_nothing_is_loaded_for_them() -> None:
    words = (
        "import sys; from apppot import paths; paths.store_dirs(); print('tomllib' in sys.modules)"
    )
    env = {**os.environ, "XDG_CONFIG_HOME": "/dev/null"}
    done = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_patterns_to_leave_out_come_from_the_files(files: Any) -> None:
    files('changes.exclude = ["a/*", "!tmp/*"]')
    assert configured() == ("a/*", "!tmp/*")
