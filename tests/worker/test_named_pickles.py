"""What others look up by name in ``__main__`` is found there on the other side."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.worker.process.spool import HEADER_BYTES, Spool, SpoolReader
from flyte_notebook.worker.values import named_pickles, pickling
from flyte_notebook.worker.values.named_pickles import names_of

if TYPE_CHECKING:
    from pathlib import Path

SENDER = """
import enum, sys
from dataclasses import dataclass
from typing import Optional
from flyte_notebook.worker.values import named_pickles

class Colour(enum.Enum):
    RED = "red"

@dataclass
class Paint:
    colour: "Colour"
    base: Optional["Paint"] = None

def mix(): return Paint

def wrapped(): return 1
function, wrapped = wrapped, [wrapped]

data, _ = named_pickles.dumps({"mix": mix, "function": function})
open(sys.argv[1], "wb").write(data)
"""

RECEIVER = """
import sys
from flyte_notebook.worker.values import named_pickles
with open(sys.argv[1], "rb") as file:
    got, names = named_pickles.load(file)
named_pickles.make_known(names)
import pickle, typing
print(sorted(names))
print(got["mix"]() is Paint, typing.get_type_hints(Paint)["colour"] is Colour)
print(pickle.loads(pickle.dumps(Paint(Colour.RED, Paint(Colour.RED)))).base.colour is Colour.RED)
"""


def in_a_process(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_what_travelled_is_found_by_name(tmp_path: Path) -> None:
    """Functions, classes, and classes that only the text of annotations names; not what goes by another name."""
    path = str(tmp_path / "data")
    in_a_process(SENDER, path)
    # Since 3.14 an optional type is said without that word.
    names = ["Colour", *(["Optional"] if sys.version_info < (3, 14) else []), "Paint", "mix"]
    assert f"{names}\nTrue True\nTrue\n" == in_a_process(RECEIVER, path)


def made(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec", dont_inherit=True), namespace)  # noqa: S102 - what a kernel does
    return namespace


def test_only_types_come_along_with_the_text_of_annotations() -> None:
    """Data that is called like a word in an annotation stays; aliases and modules come."""
    namespace = made("import io\nVec = list[int]\nsize = [0]\nclass A:\n    a: 'dict[Vec, size]'\n    b: 'io.Gone'\n")
    assert {"A", "Vec", "io"} == set(names_of([namespace["A"]], namespace))


def test_plain_values_cost_nothing_more() -> None:
    """Where nothing is to be known by name, a spool holds the pickle alone, and its end is the end."""
    spool = Spool(str)
    named_pickles.dump([1, "two"], spool)
    data = spool.finish()
    assert data is not None
    assert len(pickling.dumps([1, "two"])) == len(data) - HEADER_BYTES
    assert ([1, "two"], {}) == named_pickles.load_spooled(SpoolReader(io.BytesIO(data)))


def test_names_that_are_there_stay() -> None:
    """Nothing that a namespace has is written over."""
    namespace = {"a": 1}
    named_pickles.make_known({"a": 2, "b": 3}, namespace)
    assert {"a": 1, "b": 3} == namespace


def test_a_class_that_was_defined_anew_leaves_its_name_to_the_new_one() -> None:
    """Under a name stands what the notebook has under it, or nothing."""
    namespace = made("class A: pass\nold = A\nclass A: pass\ndef make():\n    class B: pass\n    return B\nB = make()")
    assert {} == names_of([namespace["old"], namespace["B"]], namespace)


def test_annotations_that_cannot_be_read_are_no_reason_to_fail() -> None:
    """A class whose annotations raise travels as any other."""

    class Meta(type):
        @property
        def __annotations__(cls) -> dict[str, Any]:  # type: ignore[override]  # as evaluated annotations may
            raise NameError("later")

    kind = Meta("Kind", (), {})
    assert {"Kind": kind} == names_of([kind], {"Kind": kind})


def test_what_cannot_be_pickled_is_named() -> None:
    """The problem names the culprit, as for anything that is pickled."""
    with pytest.raises(pickling.PicklingProblem, match=r"task\['lock'\]"):
        named_pickles.dumps({"lock": threading.Lock()}, name="task")
