"""`@dataclass(slots=True)`, frozen or not, that compiles nothing when a module is imported.

The standard decorator compiles two to six methods for each class (0.8 ms for a frozen one on Python
3.11), and a push imports a hundred classes. Here `__init__` is compiled when it is worth it, the
other methods are shared, and the fields are described when they are first asked for. `fields`,
`replace`, `asdict`, pickle and type checkers see an ordinary dataclass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from functools import partial
from itertools import starmap
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, slots: Literal[True], frozen: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Callable[[type[T]], type[T]]:
        """Like the standard decorator with these arguments."""

        def decorate(cls: type[T]) -> type[T]:
            own = dict(vars(cls))
            own.pop("__dict__", None)
            own.pop("__weakref__", None)
            annotations: dict[str, str] = own.get("__annotations__", {})
            if own.get("__doc__") is None:  # the standard decorator would inspect the class for one
                arguments = (f"{name}: {kind}" for name, kind in annotations.items())
                own["__doc__"] = f"{cls.__name__}({', '.join(arguments)})"
            given = _inherited(cls)
            for name, kind in annotations.items():
                if "ClassVar" not in kind:
                    given[name] = own.pop(name, MISSING)
            taken = {slot for base in cls.__mro__[1:-1] for slot in vars(base).get("__slots__", ())}
            positional = tuple(
                name for name, value in given.items() if _is_positional(value, kw_only)
            )
            lazy_fields = _LazyFields(given, annotations, frozen=frozen, kw_only=kw_only)
            members: dict[str, Any] = {
                "__dataclass_fields__": lazy_fields,
                "__dataclass_params__": _LazyParams(lazy_fields),
                "__init__": _LazyInit(given, positional, frozen=frozen),
                "__match_args__": positional,
                "__replace__": _replace,
                "__repr__": _repr,
                "__slots__": tuple(name for name in given if name not in taken),
            }
            if eq:
                compared = tuple(
                    name
                    for name, value in given.items()
                    if not isinstance(value, Field) or value.compare
                )
                members["__eq__"] = _equality(compared)
                members["__hash__"] = _hash(compared) if frozen else None
            if frozen:
                members["__setattr__"] = _refuse_assignment
                members["__delattr__"] = _refuse_deletion
                members["__getstate__"] = _get_state
                members["__setstate__"] = _set_state
            made = type(cls)(cls.__name__, cls.__bases__, {**members, **own})
            made.__qualname__ = cls.__qualname__
            return made

        return decorate


def _inherited(cls: type) -> dict[str, Any]:
    """The fields of the base classes by their names."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:-1]):
        inherited = vars(base).get("__dataclass_fields__")
        if inherited is not None and not (
            isinstance(inherited, _LazyFields) and not inherited.given
        ):
            found.update((field.name, field) for field in fields(base))
    return found


def _is_positional(value: object, kw_only: bool) -> bool:
    """Whether a field, with this default value or `field(...)`, is a positional parameter."""
    if not isinstance(value, Field):
        return not kw_only
    return value.init and not (kw_only if value.kw_only is MISSING else value.kw_only)


class _LazyFields:
    """Stands in for `__dataclass_fields__` until somebody asks for the fields: few do, and not in a
    small push. The standard decorator makes them then."""

    __slots__ = ("_annotations", "_cls", "_frozen", "_kw_only", "given")

    def __init__(
        self, given: dict[str, Any], annotations: dict[str, str], *, frozen: bool, kw_only: bool
    ) -> None:
        self.given = given
        """The default value of each field, or what `field(...)` returned."""
        self._annotations = annotations
        self._frozen = frozen
        self._kw_only = kw_only

    def __set_name__(self, owner: type, name: str) -> None:
        self._cls = owner

    def __get__(self, instance: object, owner: type) -> Any:
        self.make()
        return vars(self._cls)["__dataclass_fields__"]

    def make(self) -> None:
        """Put the fields, and the arguments of the decorator, in their places."""
        twin: Any = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=self._kw_only)(
            type(
                self._cls.__name__,
                (),
                {
                    **{name: value for name, value in self.given.items() if value is not MISSING},
                    # The standard decorator would parse each annotation's text three times.
                    "__annotations__": dict.fromkeys(self.given, object),
                    "__doc__": self._cls.__doc__,
                    "__module__": self._cls.__module__,
                },
            )
        )
        for name, field in twin.__dataclass_fields__.items():
            field.type = self._annotations.get(name, field.type)
        twin.__dataclass_params__.frozen = self._frozen
        cls: Any = self._cls
        cls.__dataclass_params__ = twin.__dataclass_params__
        cls.__dataclass_fields__ = twin.__dataclass_fields__


class _LazyParams:
    """Stands in for `__dataclass_params__`, which the standard decorator looks at in the bases of a
    class."""

    __slots__ = ("_fields",)

    def __init__(self, lazy_fields: _LazyFields) -> None:
        self._fields = lazy_fields

    def __get__(self, instance: object, owner: type) -> Any:
        self._fields.make()
        return vars(self._fields._cls)["__dataclass_params__"]


COMPILED_AFTER = 100
"""Instances of a class before its `__init__` is compiled, which takes 0.7 ms. Until then each costs
2 to 4 µs more: a small push compiles nothing, a large one soon all that it needs."""


_Parameter: TypeAlias = tuple[str, Any, Any, bool]
"""Name, default value, function that makes one, and whether `__init__` has this argument."""


def _parameter(name: str, value: Any) -> _Parameter:
    if isinstance(value, Field):
        return name, value.default, value.default_factory, value.init
    return name, value, MISSING, True


class _LazyInit:
    """Stands in for `__init__` until there have been `COMPILED_AFTER` instances, or somebody looks
    at it, and then puts the compiled one in its place."""

    __slots__ = ("_cls", "_frozen", "_given", "_left", "_parameters", "_positional")

    def __init__(self, given: dict[str, Any], positional: tuple[str, ...], *, frozen: bool) -> None:
        self._given = given
        self._positional = positional
        self._frozen = frozen
        self._left = COMPILED_AFTER
        self._parameters: tuple[_Parameter, ...] = ()

    def __set_name__(self, owner: type, name: str) -> None:
        self._cls = owner

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None or self._left <= 0:
            init = self._compiled()
            return init if instance is None else init.__get__(instance, owner)
        self._left -= 1
        return partial(self._assign, instance)

    def _assign(self, instance: Any, /, *values: Any, **named: Any) -> None:
        """Do what the compiled `__init__` does."""
        if not self._parameters:
            self._parameters = tuple(starmap(_parameter, self._given.items()))
        given = {**dict(zip(self._positional, values, strict=False)), **named}
        left = len(given)
        if left != len(values) + len(named):
            self._refuse(instance, values, named)
        for name, default, make_default, is_argument in self._parameters:
            if is_argument and name in given:
                value = given[name]
                left -= 1
            elif default is not MISSING:
                value = default
            elif make_default is not MISSING:
                value = make_default()
            elif is_argument:
                self._refuse(instance, values, named)
            else:
                continue  # `__post_init__` sets it
            object.__setattr__(instance, name, value)
        if left:
            self._refuse(instance, values, named)
        if hasattr(instance, "__post_init__"):
            instance.__post_init__()

    def _refuse(self, instance: Any, values: tuple[Any, ...], named: dict[str, Any]) -> NoReturn:
        """Raise the `TypeError` for these arguments, which the compiled `__init__` words."""
        self._compiled()(instance, *values, **named)
        raise AssertionError("these arguments are wrong")  # pragma: no cover

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


def _replace(self: T, /, **changes: Any) -> T:
    return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
