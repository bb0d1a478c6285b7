"""Where CPython keeps its stacks: said by tables and the interpreter, proven by the process itself, or searched for."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from stack_programs import HAND_OVER, eventually, started

from flyte_notebook.worker.process import handover
from flyte_notebook.worker.stacks import calibration, selfread, shapes
from flyte_notebook.worker.stacks.layout import Layout, Shape, UnknownLayoutError
from flyte_notebook.worker.stacks.pystack import Place
from flyte_notebook.worker.values import known_values

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.linux

MINOR = sys.version_info.minor
PUBLISHES = pytest.mark.skipif(sys.version_info < (3, 13), reason="before 3.13 nothing is published")

FORGETS = "from flyte_notebook.worker.stacks import shapes; shapes.TABLES.clear(); shapes.ORDERS.clear(); " + HAND_OVER

STANDS_STILL = """
import threading, time
def outer():
    inner()
def inner():
    print("up", flush=True)
    time.sleep(60)
def other():
    time.sleep(60)
threading.Thread(target=other, daemon=True).start()
outer()
"""

UNPROVEN = {"frame_entry", "interpreter_threads"}
"""Fields that no reading of the process itself contradicts: one only makes torn readings rarer, and while there is one
thread its address stands at several places."""


def wrong_values(shape: Shape) -> dict[str, Any]:
    """Return for each field something else than it holds."""
    wrong: dict[str, Any] = {}
    for field in dataclasses.fields(shape):
        value = getattr(shape, field.name)
        if isinstance(value, bool):
            wrong[field.name] = not value
        elif isinstance(value, tuple):
            wrong[field.name] = () if value else (0,)
        elif value is None:
            wrong[field.name] = 8
        else:
            wrong[field.name] = value + 8
    return wrong


@pytest.mark.parametrize("field", sorted({field.name for field in dataclasses.fields(Shape)} - UNPROVEN))
def test_a_shape_that_is_wrong_is_found_out(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter whose structures are not those that are known switches the feature off, with a reason."""
    shape = shapes.found()
    wrong = dataclasses.replace(shape, **{field: wrong_values(shape)[field]})
    monkeypatch.setitem(shapes.TABLES, MINOR, wrong)
    with pytest.raises(UnknownLayoutError):
        selfread.known_layout()
    assert {"why"} == set(handover.layout_message())


def test_what_is_known_is_not_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the known values of this process the reading of its own stack still finds a wrong shape out."""
    shape = shapes.found()
    assert [] == known_values.contradicted(shape)
    monkeypatch.setattr(known_values, "contradicted", lambda _: [])
    for field in ("code_name", "frame_previous", "thread_frame", "suspended", "frame_stack_top", "text_compact"):
        wrong = dataclasses.replace(shape, **{field: wrong_values(shape)[field]})
        with monkeypatch.context() as patch:
            patch.setitem(shapes.TABLES, MINOR, wrong)
            with pytest.raises(UnknownLayoutError):
                selfread.known_layout()


@PUBLISHES
@pytest.mark.parametrize(
    ("at", "form", "value"), [(0, "<8s", b"xdebugpX"), (8, "<Q", sys.hexversion ^ 0x100), (16, "<Q", 1)]
)
def test_what_is_published_for_another_interpreter_is_not_believed(
    at: int, form: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets count only behind the cookie, for this very version, and for an interpreter with a lock."""
    shapes.published(MINOR)
    string_at = ctypes.string_at

    def changed(address: int, size: int) -> bytes:
        data = bytearray(string_at(address, size))
        struct.pack_into(form, data, at, value)
        return bytes(data)

    monkeypatch.setattr(ctypes, "string_at", changed)
    with pytest.raises(UnknownLayoutError, match="laid out"):
        shapes.published(MINOR)


@PUBLISHES
def test_every_name_of_a_published_offset_is_in_its_order() -> None:
    """The names by which offsets are looked up are those of the orders; the orders grow from version to version."""
    lengths = [len(shapes.names_of(shapes.ORDERS[minor])) for minor in (13, 14, 15)]
    assert lengths == sorted(set(lengths))
    for minor, order in shapes.ORDERS.items():
        missing = {
            field
            for field, name in shapes.PUBLISHED.items()
            if name not in shapes.names_of(order) and field not in shapes.UNPUBLISHED[minor]
        }
        assert set() == missing


def test_a_free_threaded_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock frames change under the reader: the doctor is told so."""
    monkeypatch.setattr(sys, "abiflags", "t")
    assert "free-threaded" in handover.layout_message()["why"]


def test_an_interpreter_that_nobody_wrote_down_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found by known values alone is what is known; of 3.11 and 3.12 it is not found, and there is a reason."""
    known = shapes.found()
    monkeypatch.setattr(shapes, "TABLES", {})
    monkeypatch.setattr(shapes, "ORDERS", {})
    if sys.version_info < (3, 13):
        with pytest.raises(UnknownLayoutError, match=rf"Python 3\.{MINOR} are not known"):
            selfread.known_layout()
        return
    found = selfread.known_layout().shape
    assert set(found.entry_owners) <= set(known.entry_owners)
    assert set(found.suspended) <= set(known.suspended)
    same = {"entry_owners": (), "suspended": (), "thread_base": None}
    assert dataclasses.replace(known, **same) == dataclasses.replace(found, **same)  # type: ignore[arg-type]


@PUBLISHES
def test_another_process_is_read_by_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads knows no version: the offsets come from the process, which may have searched for them."""
    monkeypatch.setattr(shapes, "TABLES", {})
    monkeypatch.setattr(shapes, "ORDERS", {})
    with started(STANDS_STILL, tmp_path, FORGETS) as (reader, process, file):
        main, other = reader.threads()
        assert process.pid == main.native_id
        expected = (Place(file, 8, "inner"), Place(file, 5, "outer"), Place(file, 12, "<module>"))
        eventually(lambda: expected == reader.stack(main))
        assert (Place(file, 10, "other"),) == reader.stack(other)


def test_what_is_found_at_two_places_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that is not sure gives no shape."""
    places = calibration._places
    monkeypatch.setattr(calibration, "_places", lambda *some: places(*some) | {0, 8})
    with pytest.raises(UnknownLayoutError, match=r"is at \d+ places"):
        calibration.searched()


def test_a_layout_travels_as_json() -> None:
    """What a process found arrives whole, and what is no layout is refused."""
    layout = selfread.known_layout()
    sent = json.loads(json.dumps(layout.to_dict()))
    assert layout == Layout.from_dict(sent)
    for field, value in (("frame_code", -1), ("frame_code", None), ("code_name", "8"), ("suspended", 5)):
        with pytest.raises(ValueError, match=r"not an offset|not a layout"):
            Layout.from_dict({**sent, "shape": {**sent["shape"], field: value}})
    for less in ("shape", "threads"):
        with pytest.raises(ValueError, match="not a layout"):
            Layout.from_dict({name: value for name, value in sent.items() if name != less})
    with pytest.raises(ValueError, match="order"):
        _ = dataclasses.replace(layout.shape, frame_code=1_000).frame_format
