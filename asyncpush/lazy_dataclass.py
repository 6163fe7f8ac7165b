"""`@dataclass(frozen=True, slots=True)` that compiles nothing when a module is imported.

The standard decorator compiles six methods for each class (0.8 ms on Python 3.11), and a push
imports more than a hundred classes. Here `__init__` is compiled when it is first used, and the
other methods are shared. `fields`, `replace`, `asdict`, pickle and type checkers see an ordinary
dataclass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, frozen: Literal[True], slots: Literal[True], kw_only: bool = False
    ) -> Callable[[type[T]], type[T]]:
        """Like the standard decorator with these arguments."""

        def decorate(cls: type[T]) -> type[T]:
            own = set(vars(cls))
            if cls.__doc__ is None:  # the standard decorator would inspect the class to make one
                arguments = (f"{name}: {kind}" for name, kind in cls.__annotations__.items())
                cls.__doc__ = f"{cls.__name__}({', '.join(arguments)})"
            cls = dataclasses.dataclass(
                init=False, repr=False, eq=False, slots=True, kw_only=kw_only
            )(cls)
            # Marked as frozen, so that frozen classes may inherit from it. Not a base without
            # fields: the call above would then refuse the classes that inherit from it.
            cls.__dataclass_params__.frozen = bool(fields(cls))
            compared = tuple(field.name for field in fields(cls) if field.compare)
            methods = {
                "__init__": _LazyInit(cls),
                "__repr__": _repr,
                "__eq__": _equality(compared),
                "__hash__": _hash(compared),
                "__setattr__": _refuse_assignment,
                "__delattr__": _refuse_deletion,
                "__getstate__": _get_state,
                "__setstate__": _set_state,
            }
            for name, method in methods.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return decorate


class _LazyInit:
    """Stands in for `__init__` until it is first looked up, and then puts the real one in its
    place."""

    __slots__ = ("_cls",)

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def __get__(self, instance: object | None, owner: type) -> Any:
        if vars(self._cls).get("__init__") is self:  # otherwise another thread was faster
            self._cls.__init__ = _compiled_init(self._cls)
        init: Any = vars(self._cls)["__init__"]
        return init if instance is None else init.__get__(instance, owner)


class _Factory:
    """The default of a parameter whose value a factory makes."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _compiled_init(cls: type) -> Any:
    """An `__init__` like the one that the standard decorator makes for a class with these fields.

    It sets each slot by its descriptor, which takes two thirds of the time that
    `object.__setattr__` takes (measured), and compiling one function takes a third of the time that
    the standard decorator takes.
    """
    names: dict[str, Any] = {"_FACTORY": _FACTORY}
    positional, by_keyword, body = ["self"], list[str](), list[str]()
    for field in fields(cls):
        name, value = field.name, field.name
        parameter = name
        if field.default_factory is not MISSING:
            names[f"_make_{name}"] = field.default_factory
            parameter = f"{name}=_FACTORY"
            value = f"_make_{name}() if {name} is _FACTORY else {name}"
        elif field.default is not MISSING:
            names[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
        if field.init:
            (by_keyword if field.kw_only else positional).append(parameter)
        elif field.default_factory is not MISSING:
            value = f"_make_{name}()"
        elif field.default is not MISSING:
            value = f"_default_{name}"
        else:
            continue  # set by `__post_init__`
        names[f"_set_{name}"] = getattr(cls, name).__set__
        body.append(f"_set_{name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = [*positional, *(["*", *by_keyword] if by_keyword else [])]
    source = f"def __init__({', '.join(parameters)}):\n  {'; '.join(body) or 'pass'}"
    exec(source, names)
    init = names["__init__"]
    init.__annotations__ = {f.name: f.type for f in fields(cls) if f.init} | {"return": None}
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return init


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
