"""`@dataclass(slots=True)`, frozen or not, that compiles nothing when a module is imported.

The standard decorator compiles two to six methods for each class (0.8 ms for a frozen one on Python
3.11), and a push imports more than a hundred classes. Here all methods are ordinary functions.
`__init__` sets the slots directly, in 1.1 to 1.4 times the time of a frozen class's compiled one.
`fields`, `replace`, `asdict`, `inspect.signature`, pickle and type checkers see an ordinary
dataclass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, FrozenInstanceError, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import inspect

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, slots: Literal[True], frozen: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Callable[[type[T]], type[T]]:
        """Like the standard decorator with these arguments."""

        def decorate(cls: type[T]) -> type[T]:
            annotations: dict[str, str] = vars(cls).get("__annotations__", {})
            namespace = dict(vars(cls))
            members = _inherited(cls)
            taken = set(members)
            for name, kind in annotations.items():
                if "ClassVar" not in kind:
                    members[name] = _field(name, kind, namespace.pop(name, MISSING), kw_only)
            if cls.__doc__ is None:
                arguments = (f"{name}: {kind}" for name, kind in annotations.items())
                namespace["__doc__"] = f"{cls.__name__}({', '.join(arguments)})"
            for name in ("__dict__", "__weakref__"):  # of the class that has no slots
                namespace.pop(name, None)
            methods: dict[str, Any] = {"__repr__": _repr}
            if eq:
                compared = tuple(name for name, field in members.items() if field.compare)
                methods["__eq__"] = _equality(compared)
                methods["__hash__"] = _hash(compared) if frozen else None
            if frozen:
                methods["__setattr__"] = _refuse_assignment
                methods["__delattr__"] = _refuse_deletion
                methods["__getstate__"] = _get_state
                methods["__setstate__"] = _set_state
            slotted = type(cls)(
                cls.__name__,
                cls.__bases__,
                {
                    **methods,
                    **namespace,
                    "__qualname__": cls.__qualname__,
                    "__slots__": tuple(name for name in members if name not in taken),
                    "__match_args__": tuple(
                        name for name, field in members.items() if field.init and not field.kw_only
                    ),
                    "__dataclass_fields__": members,
                    # Marked as frozen, so that frozen classes of the standard decorator may
                    # inherit from it.
                    "__dataclass_params__": _FROZEN if frozen and members else _NOT_FROZEN,
                    "__signature__": _Signature(),
                },
            )
            if "__init__" not in namespace:
                slotted.__init__ = _init(slotted, tuple(members.values()))
            return slotted

        return decorate


@dataclasses.dataclass(init=False, repr=False, eq=False)
class _Standard:
    """A class of the standard decorator."""

    field: object = None


_STANDARD_FIELD: Any = fields(_Standard)[0]
_NOT_FROZEN: Any = vars(_Standard)["__dataclass_params__"]
_FROZEN: Any = copy(_NOT_FROZEN)
_FROZEN.frozen = True


def _inherited(cls: type) -> dict[str, dataclasses.Field[Any]]:
    members: dict[str, dataclasses.Field[Any]] = {}
    for base in cls.__mro__[:0:-1]:
        members |= vars(base).get("__dataclass_fields__", {})
    return members


def _field(name: str, kind: str, default: Any, kw_only: bool) -> Any:
    field: Any = default
    if not isinstance(default, dataclasses.Field):
        field = dataclasses.field(default=default)
    field.name, field.type, field._field_type = name, kind, _STANDARD_FIELD._field_type
    if field.kw_only is MISSING:
        field.kw_only = kw_only
    return field


def _init(cls: type, members: tuple[dataclasses.Field[Any], ...]) -> Any:
    """`__init__` for these fields. Called wrongly, it raises the standard one's `TypeError`."""
    taken = [field for field in members if field.init]
    ordered = [
        *(field for field in taken if not field.kw_only),
        *(field for field in taken if field.kw_only),
        *(field for field in members if not field.init),
    ]
    # A slot's own method: `object.__setattr__` would look the slot up each time.
    setters = [getattr(cls, field.name).__set__ for field in ordered]
    steps = [
        (field.name if field.init else None, setter, field.default, field.default_factory)
        for field, setter in zip(ordered, setters, strict=True)
    ]
    positional = sum(not field.kw_only for field in taken)
    all_positional = positional == len(members)
    prepared = hasattr(cls, "__post_init__")

    def __init__(self: Any, /, *values: Any, **named: Any) -> None:
        given = len(values)
        if given > positional:
            _refuse(cls, values, named)
        for setter, value in zip(setters, values):  # noqa: B905  # `strict` takes time
            setter(self, value)
        if named or given < positional or not all_positional:
            left = len(named)
            for name, setter, default, factory in steps[given:]:
                if name in named:
                    setter(self, named[name])
                    left -= 1
                elif default is not MISSING:
                    setter(self, default)
                elif factory is not MISSING:
                    setter(self, factory())
                elif name is not None:  # else `__post_init__` sets it
                    _refuse(cls, values, named)
            if left:
                _refuse(cls, values, named)
        if prepared:
            self.__post_init__()

    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


class _Signature:
    """What `inspect.signature` shows of a class, and its instances do not have."""

    def __get__(self, instance: object | None, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        import inspect

        return inspect.signature(_standard(owner))


def _refuse(cls: type, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise the `TypeError` for these arguments, in the words of the standard `__init__`."""
    _standard(cls)(*values, **named)
    raise AssertionError("these arguments are wrong")  # pragma: no cover


def _standard(cls: type) -> type:
    """A class that the standard decorator makes of the same fields."""
    members: dict[str, Any] = {field.name: field for field in fields(cls)}
    namespace = {
        **members,
        "__annotations__": {name: field.type for name, field in members.items()},
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return dataclasses.dataclass(repr=False, eq=False)(type(cls.__name__, (), namespace))


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
