"""What the way to `apppot run` uses of `dataclasses` and `typing`, without the time they take.

The library's `dataclass` compiles source text for every class and loads `inspect`, which was half
of the time that Python needed to start a machine; this one takes 1 % of that. Type checkers see
the library's own. At run time its classes behave the same, also for the library's `replace`,
`asdict` and `fields`. Left out is what nobody on that way uses: slots, order, keyword-only fields,
class variables, metadata.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the name alone tells type checkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414  exported again
    from dataclasses import field as field  # noqa: PLC0414
    from dataclasses import replace as replace  # noqa: PLC0414
    from typing import Any


class _Missing:
    """The default of a field that has none."""


class _Factory:
    """A default that is made anew for every object."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


class _Fields:
    """The fields of a class, kept as its attribute `_fields`."""

    def __init__(self, entries: dict[str, tuple[str, object]]) -> None:
        self.entries = entries  # name -> annotation, default
        self.names = tuple(entries)
        self.known = entries.keys()
        self.defaults: dict[str, object] = {}
        self.factories: dict[str, Callable[[], object]] = {}
        for name, (_, default) in entries.items():
            if isinstance(default, _Factory):
                self.factories[name] = default.make
            elif default is not _Missing:
                if default.__class__.__hash__ is None:
                    raise ValueError(f"the default of {name} could be changed by whoever gets it")
                self.defaults[name] = default


class _Twin:
    """`__dataclass_fields__` in the library's own form, made when its functions ask for it."""

    def __get__(self, _: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        fields: _Fields = owner._fields
        rows = []
        for name, (annotation, _default) in fields.entries.items():
            if name in fields.factories:
                row: Any = dataclasses.field(default_factory=fields.factories[name])
            else:
                row = dataclasses.field(default=fields.defaults.get(name, dataclasses.MISSING))
            rows.append((name, annotation, row))
        twin: Any = dataclasses.make_dataclass(owner.__name__, rows)
        made: dict[str, Any] = twin.__dataclass_fields__
        return made


def _initialise(self: Any, *values: object, **named: object) -> None:
    """Be `__init__`: fill the object from positional and keyword arguments and the defaults."""
    fields: _Fields = self._fields
    own: dict[str, object] = self.__dict__  # also a frozen object can be filled here
    own.update(fields.defaults)
    own.update(zip(fields.names, values, strict=False))
    own.update(named)
    for name, make in fields.factories.items():
        if name not in own:
            own[name] = make()
    twice = named.keys() & fields.names[: len(values)] if named else ()
    if own.keys() != fields.known or len(values) > len(fields.names) or twice:
        raise TypeError(
            f"{type(self).__name__}({', '.join(fields.names)}) cannot be made of"
            f" {len(values)} positional arguments and {list(named)}"
        )


def _values(self: Any) -> tuple[object, ...]:
    own = self.__dict__
    return tuple([own[name] for name in self._fields.names])


def _equal(self: Any, other: object) -> bool:
    """Be `__eq__`: same class, same values."""
    return _values(self) == _values(other) if other.__class__ is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _show(self: Any) -> str:
    """Be `__repr__`: a call that makes an equal object."""
    inner = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields.names)
    return f"{type(self).__qualname__}({inner})"


def _refuse(_: Any, name: str, *__: object) -> None:
    """Be `__setattr__` and `__delattr__` of frozen objects."""
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _field(*, default_factory: Callable[[], object]) -> object:
    return _Factory(default_factory)


def _replace(thing: Any, /, **changes: object) -> Any:
    """Return an object with some values changed, made as by a call."""
    own = thing.__dict__
    return type(thing)(**{**{name: own[name] for name in thing._fields.names}, **changes})


def _dataclass(plain: type | None = None, /, *, frozen: bool = False) -> Any:
    """Be a decorator that gives a class what dataclasses.dataclass(frozen=...) gives."""

    def decorate(cls: type) -> type:
        entries: dict[str, tuple[str, object]] = {}
        if inherited := getattr(cls, "_fields", None):
            entries.update(inherited.entries)
        for name, annotation in cls.__annotations__.items():
            default = cls.__dict__.get(name, _Missing)
            entries[name] = annotation, default
            if isinstance(default, _Factory):
                delattr(cls, name)
        fields = _Fields(entries)
        methods: dict[str, object] = {
            "__init__": _initialise,
            "__eq__": _equal,
            "__hash__": _hash if frozen else None,
            "__match_args__": fields.names,
            "__dataclass_fields__": _Twin(),
            "_fields": fields,
        }
        if "__repr__" not in cls.__dict__:
            methods["__repr__"] = _show
        if frozen:
            methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
        for name, value in methods.items():
            setattr(cls, name, value)
        return cls

    return decorate(plain) if plain else decorate


if not TYPE_CHECKING:
    dataclass, field, replace = _dataclass, _field, _replace
