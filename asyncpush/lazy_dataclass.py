"""`@dataclass(slots=True)`, frozen or not, that compiles nothing when a module is imported.

The standard decorator compiles two to six methods for each class (0.8 ms for a frozen one on Python
3.11), and a push imports more than a hundred classes. Here `__init__` is compiled when it is worth
it, and the other methods are shared. `fields`, `replace`, `asdict`, pickle and type checkers see an
ordinary dataclass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields
from functools import partial
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, slots: Literal[True], frozen: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Callable[[type[T]], type[T]]:
        """Like the standard decorator with these arguments."""

        def decorate(cls: type[T]) -> type[T]:
            own = set(vars(cls))
            annotations: dict[str, str] = vars(cls).get("__annotations__", {})
            if cls.__doc__ is None:  # the standard decorator would inspect the class to make one
                arguments = (f"{name}: {kind}" for name, kind in annotations.items())
                cls.__doc__ = f"{cls.__name__}({', '.join(arguments)})"
            # The standard decorator would parse each of these texts three times.
            cls.__annotations__ = {
                name: object for name, kind in annotations.items() if "ClassVar" not in kind
            }
            cls = dataclasses.dataclass(
                init=False, repr=False, eq=False, slots=True, kw_only=kw_only
            )(cls)
            cls.__annotations__ = annotations
            members = fields(cls)
            for field in members:
                field.type = annotations.get(field.name, field.type)
            # Marked as frozen, so that frozen classes may inherit from it. Not a base without
            # fields: the call above would then refuse the classes that inherit from it.
            cls.__dataclass_params__.frozen = frozen and bool(members)
            methods: dict[str, Any] = {
                "__init__": _LazyInit(cls, members, frozen),
                "__repr__": _repr,
            }
            if eq:
                compared = tuple(field.name for field in members if field.compare)
                methods["__eq__"] = _equality(compared)
                methods["__hash__"] = _hash(compared) if frozen else None
            if frozen:
                methods["__setattr__"] = _refuse_assignment
                methods["__delattr__"] = _refuse_deletion
                methods["__getstate__"] = _get_state
                methods["__setstate__"] = _set_state
            for name, method in methods.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return decorate


COMPILED_AFTER = 100
"""Instances of a class before its `__init__` is compiled, which takes 0.7 ms. Until then each costs
2 to 4 µs more: a small push compiles nothing, a large one soon all that it needs."""


class _LazyInit:
    """Stands in for `__init__` until there have been `COMPILED_AFTER` instances, or somebody looks
    at it, and then puts the compiled one in its place."""

    __slots__ = ("_cls", "_fields", "_frozen", "_left", "_parameters", "_positional")

    def __init__(self, cls: type, fields: tuple[dataclasses.Field[Any], ...], frozen: bool) -> None:
        self._cls = cls
        self._fields = fields
        self._frozen = frozen
        self._left = COMPILED_AFTER
        self._positional = [each.name for each in fields if each.init and not each.kw_only]
        self._parameters = {each.name for each in fields if each.init}

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None or self._left <= 0:
            init = self._compiled()
            return init if instance is None else init.__get__(instance, owner)
        self._left -= 1
        return partial(self._assign, instance)

    def _assign(self, instance: Any, /, *values: Any, **named: Any) -> None:
        """Do what the compiled `__init__` does."""
        given = {**dict(zip(self._positional, values, strict=False)), **named}
        if len(given) != len(values) + len(named) or not given.keys() <= self._parameters:
            self._refuse(instance, values, named)
        for field in self._fields:
            name = field.name
            if name in given:
                value = given[name]
            elif field.default is not MISSING:
                value = field.default
            elif field.default_factory is not MISSING:
                value = field.default_factory()
            elif field.init:
                self._refuse(instance, values, named)
            else:
                continue  # `__post_init__` sets it
            object.__setattr__(instance, name, value)
        if hasattr(instance, "__post_init__"):
            instance.__post_init__()

    def _refuse(self, instance: Any, values: tuple[Any, ...], named: dict[str, Any]) -> NoReturn:
        """Raise the `TypeError` for these arguments, as the compiled `__init__` does."""
        self._compiled()(instance, *values, **named)
        raise AssertionError(
            "the compiled __init__ accepted arguments that do not fit"
        )  # pragma: no cover

    def _compiled(self) -> Any:
        if vars(self._cls).get("__init__") is self:  # otherwise another thread was faster
            self._cls.__init__ = _compiled_init(self._cls, frozen=self._frozen)
        return vars(self._cls)["__init__"]


def _compiled_init(cls: type, *, frozen: bool) -> Any:
    """The `__init__` that the standard decorator makes for a class with these fields."""
    members: dict[str, Any] = {field.name: field for field in fields(cls)}
    namespace = {
        **members,
        "__annotations__": {name: field.type for name, field in members.items()},
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    if hasattr(cls, "__post_init__"):
        namespace["__post_init__"] = cls.__post_init__
    twin: type = dataclasses.dataclass(frozen=frozen, repr=False, eq=False)(
        type(cls.__name__, (), namespace)
    )
    return vars(twin)["__init__"]


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (field.name for field in fields(self) if field.repr)
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
    return f"{type(self).__qualname__}({values})"


def _values(names: tuple[str, ...]) -> Callable[[Any], Any]:
    return attrgetter(*names) if names else lambda instance: ()


def _equality(names: tuple[str, ...]) -> Callable[[Any, object], Any]:
    values = _values(names)

    def equal(self: Any, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return equal


def _hash(names: tuple[str, ...]) -> Callable[[Any], int]:
    values = _values(names)
    return lambda self: hash(values(self))


def _refuse_assignment(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
