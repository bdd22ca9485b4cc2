"""Frozen dataclasses as plain JSON values, and back, with every type checked."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
_known: dict[Any, dict[str, Any]] = {}  # evaluating annotations takes a millisecond


def _fields(kind: Any) -> dict[str, Any]:
    """Return the names and types of a dataclass's fields; empty for all other types."""
    if kind not in _known:
        _known[kind] = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    return _known[kind]


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it; bytes become texts as names of files do."""
    fields = _fields(type(value))
    if fields:
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, StrEnum) else value


def made(kind: type[T], value: Any, where: str = "it") -> T:
    """Return the object of a dataclass that `plain` has made `value` of.

    Raises ValueError, which says where it is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")  # noqa: TRY004  one error for all of it
    hints = _fields(kind)
    unknown = value.keys() ^ hints.keys()
    if unknown:
        raise ValueError(f"{where} has too much or too little: {', '.join(sorted(unknown))}")
    return kind(**{name: _value(hints[name], each, name) for name, each in value.items()})


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911  a case for each kind
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kind = next(each for each in inside if each is not types.NoneType)
        return None if value is None else _value(kind, value, where)
    if origin is tuple:
        _need(isinstance(value, list), where)
        return tuple(_value(inside[0], each, where) for each in value)
    if origin is dict:
        _need(isinstance(value, dict) and all(key.isdecimal() for key in value), where)
        return {int(key): _value(inside[1], each, where) for key, each in value.items()}
    if _fields(hint):
        return made(typing.cast("type[Any]", hint), value, where)
    if hint is bytes:
        _need(isinstance(value, str), where)
        return os.fsencode(value)
    if issubclass(hint, StrEnum):
        _need(value in list(hint), where)
        return hint(value)
    if hint is float:
        _need(type(value) in (int, float), where)
        return float(value)
    _need(type(value) is hint, where)
    return value


def _need(good: bool, where: str) -> None:
    if not good:
        raise ValueError(f"'{where}' is of another kind")
