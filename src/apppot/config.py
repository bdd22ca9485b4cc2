"""Settings: defaults < the site's file < the user's file < environment < options.

This module is on the way to `apppot run`: without configuration files it makes two attempts to
open one, and nothing else. Options are the verbs' own business.
"""

from __future__ import annotations

import os

from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PATH, PATHS, TEXT, TEXTS, COUNT = (
    "a path",
    "a list of paths",
    "a text",
    "a list of texts",
    "a number",
)
BIGGEST = 1 << 20
ENVIRONMENT_FILE = "APPPOT_CONFIG"


@dataclass(frozen=True)
class Setting:
    """What can be set: its key in the files, its kind, the variable that beats the files."""

    key: str
    kind: str
    default: str | int | tuple[str, ...]
    about: str
    variable: str = ""
    choices: tuple[str, ...] = ()
    binding: bool = False  # each file's counts: none undoes another's


@dataclass(frozen=True)
class Value:
    """A setting's value, and where it is from: a file, a variable's name, or 'default'."""

    setting: Setting
    value: Any
    source: str


SETTINGS: tuple[Setting, ...] = (
    Setting("store", PATH, "", "the store that is written to", "APPPOT_STORE"),
    Setting("stores", PATHS, (), "more stores to search, the site's", "APPPOT_STORE"),
    Setting("kit", PATH, "", "the kit's folder; no other is looked for", "APPPOT_KIT"),
    Setting("cache.folder", PATH, "", "the folder for what can be made again", "APPPOT_CACHE"),
    Setting("cache.days", COUNT, 30, "age at which 'apppot gc' drops unused steps of builds"),
    Setting("scratch.folder", PATH, "", "the folder for large throw-away files", "APPPOT_TMPDIR"),
    Setting("runtime.folder", PATH, "", "the folder of running machines", "APPPOT_RUNTIME_DIR"),
    Setting(
        "run.engine",
        TEXT,
        "auto",
        "what --engine is if it is not given",
        "APPPOT_ENGINE",
        choices=("auto", "uml", "kvm", "tcg", "xen", "virtualbox"),
    ),
    Setting(
        "xen.type",
        TEXT,
        "auto",
        "what machines of the engine xen are; auto: pvh if the processor can, else pv",
        "APPPOT_XEN_TYPE",
        choices=("auto", "pv", "pvh"),
    ),
    Setting("run.memory", TEXT, "1G", "what --memory is if it is not given", "APPPOT_MEMORY"),
    Setting("registry.default", TEXT, "docker.io", "where names without a host are pulled from"),
    Setting("changes.exclude", TEXTS, (), "more patterns to leave out; '!PATTERN' keeps one"),
    Setting(
        "signatures.require",
        TEXT,
        "none",
        "whose signature images from elsewhere must have",
        choices=("none", "cosign", "gpg"),
        binding=True,
    ),
    Setting("signatures.keys", PATHS, (), "the public keys of whom to believe", binding=True),
    Setting("signatures.folder", PATH, "", "where OpenPGP signatures are", binding=True),
    Setting(
        "signatures.except", TEXTS, (), "names that need no signature, as patterns", binding=True
    ),
)
_files: list[tuple[str, dict[str, Any]]] | None = None  # once read: path and flat contents


def text(key: str) -> str:
    """Return a text; raises UsageError if a configuration file makes no sense."""
    value: str = _value(_setting(key)).value
    return value


def number(key: str) -> int:
    """Return a number; raises UsageError."""
    value: int = _value(_setting(key)).value
    return value


def texts(key: str) -> tuple[str, ...]:
    """Return a list of texts; raises UsageError."""
    value: tuple[str, ...] = _value(_setting(key)).value
    return value


def path(key: str) -> str:
    """Return an absolute path, '' if it is not set; raises UsageError."""
    found = _value(_setting(key))
    return _absolute(found, found.value) if found.value else ""


def path_list(key: str) -> tuple[str, ...]:
    """Return absolute paths; raises UsageError."""
    return tuple(_expanded(_value(_setting(key))))


def values() -> tuple[Value, ...]:
    """Return all settings, for `apppot config`; raises UsageError.

    A binding one has a value for each file that sets it, the site's first.
    """
    found: list[Value] = []
    files = binding()
    for setting in SETTINGS:
        each = [Value(setting, c[setting.key], name) for name, c in files if setting.key in c]
        found.extend(each if setting.binding and each else [_value(setting)])
    return tuple(found)


def binding() -> list[tuple[str, dict[str, Any]]]:
    """Return the binding settings of each file that has some, the site's first.

    That file counts even if the environment names another. Paths are absolute. Raises UsageError.
    """
    from apppot import paths

    files = _read()[::-1]
    if os.environ.get(ENVIRONMENT_FILE, ""):
        data = _bytes(paths.SITE_CONFIG, must_be=False)
        files = [(paths.SITE_CONFIG, _parse(paths.SITE_CONFIG, data)), *files]
    found: dict[str, dict[str, Any]] = {}
    for name, contents in files:
        own = {}
        for key, value in contents.items():
            setting = Value(_setting(key), value, name)
            if setting.setting.binding:
                own[key] = _expanded(setting)
        if own:
            found.setdefault(name, own)
    return list(found.items())


def _expanded(found: Value) -> Any:
    """Return a value with its paths absolute."""
    if found.setting.kind == PATHS:
        return tuple(_absolute(found, item) for item in found.value)
    return _absolute(found, found.value) if found.setting.kind == PATH else found.value


def forget() -> None:
    """Let the files be read anew (for tests)."""
    global _files  # noqa: PLW0603
    _files = None


def _setting(key: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.key == key)


def _value(setting: Setting) -> Value:
    """Return a setting's value from the strongest source that has one."""
    given = os.environ.get(setting.variable, "") if setting.variable else ""
    if given:
        first, colon, rest = given.partition(":")
        if setting.key == "store" and first:
            return Value(setting, first, setting.variable)
        if setting.key == "stores" and colon:
            return Value(setting, tuple(p for p in rest.split(":") if p), setting.variable)
        if setting.key not in ("store", "stores"):
            return Value(setting, given, setting.variable)
    for name, contents in _read():
        if setting.key in contents:
            return Value(setting, contents[setting.key], name)
    return Value(setting, setting.default, "default")


def _read() -> list[tuple[str, dict[str, Any]]]:
    """Return the files' contents, the user's first; raises UsageError."""
    global _files  # noqa: PLW0603  read once
    if _files is None:
        from apppot import paths

        named = os.environ.get(ENVIRONMENT_FILE, "")
        files = [(paths.user_config(), False), (named or paths.SITE_CONFIG, bool(named))]
        found = [(name, _bytes(name, must_be=must_be)) for name, must_be in files]
        _files = [(name, _parse(name, data)) for name, data in found if data]
    return _files


def _bytes(name: str, *, must_be: bool) -> bytes:
    """Return a file's content, nothing if it is not there; raises UsageError."""
    try:
        with open(name, "rb") as file:
            data = file.read(BIGGEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not must_be:
            return b""
        raise UsageError(
            f"the configuration file {name} does not exist",
            hint=f"{ENVIRONMENT_FILE} names it: correct or unset it",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the configuration file {name}: {error.strerror}") from error
    if len(data) > BIGGEST:
        raise UsageError(f"the configuration file {name} has more than {BIGGEST >> 20} MiB")
    return data


def _parse(name: str, data: bytes) -> dict[str, Any]:
    """Return a file's settings, checked, by their keys; raises UsageError."""
    import tomllib  # only who has a file pays for it

    try:
        words = data.decode()
        document = tomllib.loads(words)
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML
        raise UsageError(
            f"the configuration file {name} is not proper TOML: {error}", hint=_HINT
        ) from error
    found = dict(_flat(document))
    known = {setting.key: setting for setting in SETTINGS}
    unknown = [key for key in found if key not in known]
    if unknown:
        raise _unknown(name, words, unknown, list(known))
    return {key: _checked(name, words, known[key], value) for key, value in found.items()}


_HINT = "'apppot config --help' lists what can be set"


def _flat(document: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys with dots and their values."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _unknown(name: str, words: str, unknown: list[str], known: list[str]) -> UsageError:
    import difflib  # for the hint alone

    listed = ", ".join(f"'{key}'{_line(words, key)}" for key in unknown)
    near = difflib.get_close_matches(unknown[0], known, n=1)
    keys = "key" if len(unknown) == 1 else "keys"
    return UsageError(
        f"the configuration file {name} has the unknown {keys} {listed}",
        hint=f"did you mean '{near[0]}'?" if near else "known keys: " + ", ".join(known),
    )


def _checked(name: str, words: str, setting: Setting, value: Any) -> Any:
    """Return a value of the right kind; raises UsageError."""
    if setting.kind in (PATHS, TEXTS):
        sound = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    elif setting.kind == COUNT:
        sound = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    else:
        sound = isinstance(value, str) and bool(value)
    where = f"'{setting.key}'{_line(words, setting.key)} in the configuration file {name}"
    if not sound:
        raise UsageError(f"{where} must be {setting.kind}, not {value!r:.60}", hint=_HINT)
    if setting.choices and value not in setting.choices:
        raise UsageError(f"{where} must be one of {', '.join(setting.choices)}, not {value!r:.60}")
    return tuple(value) if isinstance(value, list) else value


def _line(words: str, key: str) -> str:
    """Return ' (line N)' of the line that sets a key, '' if it is written in an unusual way."""
    table = ""
    for number_, line in enumerate(words.splitlines(), 1):
        short = "".join(line.split())
        if short.startswith("[") and "=" not in short:
            table = short.split("]")[0].strip("[").replace('"', "") + "."
            if table[:-1] == key:
                return f" (line {number_})"
        elif "=" in short and table + short.split("=")[0].replace('"', "") == key:
            return f" (line {number_})"
    return ""


def _absolute(found: Value, item: str) -> str:
    """Return a path with `~` and `$NAME` replaced; one of a file must then be absolute."""
    if found.source == found.setting.variable:
        return os.path.abspath(item)
    full = os.path.expandvars(os.path.expanduser(item))
    if "$" in full or not os.path.isabs(full):
        what = "a variable that is not set" if "$" in full else "no absolute path"
        raise UsageError(
            f"'{found.setting.key}' in the configuration file {found.source} is '{item}': {what}"
        )
    return os.path.normpath(full)
