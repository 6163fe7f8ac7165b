"""`lazy_dataclass.dataclass` against the standard one: the same behaviour, nothing compiled."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from asyncpush import PushOptions, events, lazy_dataclass
from asyncpush.models import FileIdentity
from asyncpush.protocol.lfs import BasicUpload, LfsObject


def _made_by(decorator: Any) -> tuple[Any, ...]:
    @decorator(frozen=True, slots=True)
    class Point:
        """A point."""

        kind: ClassVar[str] = "point"
        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list, repr=False, compare=False)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("x is negative")

    @decorator(frozen=True, slots=True, kw_only=True)
    class Named:
        name: str = ""
        size: int

    @decorator(slots=True)
    class Counted:
        name: str
        count: int = 0
        seen: list[int] = field(default_factory=list, init=False)
        twice: int = field(init=False)

        def __post_init__(self) -> None:
            self.twice = 2 * self.count

    @decorator(slots=True, eq=False)
    class Itself:
        name: str = ""

    return Point, Named, Counted, Itself


LAZY, STANDARD = _made_by(lazy_dataclass.dataclass), _made_by(dataclasses.dataclass)


made_by_each = pytest.mark.parametrize("made", [LAZY, STANDARD], ids=["lazy", "standard"])


@made_by_each
def test_instances_behave_as_those_of_the_standard_decorator(made: tuple[Any, ...]) -> None:
    point, named, *_ = made
    assert repr(point(1)).endswith("Point(x=1, y=2)")
    assert point(1) == point(1, 2, ["left out"]) != point(2)
    assert hash(point(1)) == hash(point(1, tags=["left out"]))
    assert point(1).__eq__(object()) is NotImplemented
    assert point(1).tags is not point(1).tags
    assert dataclasses.replace(point(1), y=5) == point(1, 5)
    assert dataclasses.asdict(named(size=1)) == {"name": "", "size": 1}
    assert not hasattr(point(1), "__dict__")
    with pytest.raises(ValueError, match="negative"):
        point(-1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        point()
    with pytest.raises(TypeError):
        named(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        point(1).x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del point(1).x


@made_by_each
def test_mutable_instances_behave_as_standard_ones(
    made: tuple[Any, ...],
) -> None:
    _, _, counted, itself = made
    one = counted("a", 2)
    assert (one.seen, one.twice) == ([], 4)
    assert one == counted("a", count=2) != counted("b", 2)
    one.count = 5
    assert (one.count, one.twice) == (5, 4)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    assert itself() != itself()
    assert len({itself(), itself("b")}) == 2
    assert not hasattr(itself(), "__dict__")


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((), {}, "missing 1 required positional argument: 'name'"),
        (("a", 1, 2), {}, "takes from 2 to 3 positional arguments but 4 were given"),
        (("a",), {"name": "b"}, "got multiple values for argument 'name'"),
        (("a",), {"twice": 1}, "got an unexpected keyword argument 'twice'"),
        (("a",), {"other": 1}, "got an unexpected keyword argument 'other'"),
    ],
    ids=["missing", "too many", "twice", "not a parameter", "unknown"],
)
def test_wrong_arguments_are_refused_as_by_the_standard_decorator(
    values: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    for made in (_made_by(lazy_dataclass.dataclass), _made_by(dataclasses.dataclass)):
        with pytest.raises(TypeError, match=message):
            made[2](*values, **named)


def test_it_looks_like_the_standard_decorators_class() -> None:
    for lazy, standard in zip(LAZY, STANDARD, strict=True):
        assert str(inspect.signature(lazy)) == str(inspect.signature(standard))
        assert lazy.__match_args__ == standard.__match_args__
        assert [f.name for f in dataclasses.fields(lazy)] == [
            f.name for f in dataclasses.fields(standard)
        ]
    assert LAZY[0].__doc__ == "A point."
    assert LAZY[1].__doc__ == "Named(name: str, size: int)"
    assert PushOptions.__init__.__qualname__ == "PushOptions.__init__"
    assert not hasattr(PushOptions(), "__signature__")


def test_instances_are_copied_and_pickled() -> None:
    upload = BasicUpload("https://store/1", {"a": "b"}, 3.0)
    assert pickle.loads(pickle.dumps(upload)) == copy.copy(upload) == upload
    assert pickle.loads(pickle.dumps(PushOptions(private=True))) == PushOptions(private=True)


def test_uncompared_fields_are_left_out_of_the_hash() -> None:
    this = FileIdentity(device=1, inode=2, size=3, mtime_ns=4, ctime_ns=5)
    other = dataclasses.replace(this, ctime_ns=6)
    assert this == other
    assert hash(this) == hash(other)
    assert LfsObject("a", 1) in {LfsObject("a", 1): None}


def test_frozen_classes_of_the_standard_decorator_may_inherit() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(PushOptions):
        team: str = "us"

    assert Mine(private=True, team="them").private
    assert isinstance(events.PushStarted("me/a", "model", "main"), events.Event)


def test_nothing_is_compiled() -> None:
    """Neither for a new class, nor for its instances, however many there are."""
    compiled = """
from __future__ import annotations
import sys
compiled = []
sys.addaudithook(lambda name, args: compiled.append(args) if name == "compile" else None)
"""
    made = """
from asyncpush.lazy_dataclass import dataclass

@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2

before = len(compiled)
points = [Point(1), Point(1, 2), Point(x=1, y=2)] * 1000
print(len(compiled) - before, repr(points[0]), len(set(points)))
"""
    done = subprocess.run(
        [sys.executable, "-c", compiled + made], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["0", "Point(x=1, y=2) 1\n"]


def test_no_other_data_classes_are_imported_with_the_library() -> None:
    """Only the embedded Hub, which runs for long, has those of the standard decorator."""
    root = Path(lazy_dataclass.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"^from dataclasses import .*\bdataclass\b", path.read_text(), re.MULTILINE)
        and not path.is_relative_to(root / "localhub")
    }
    assert users == set()
