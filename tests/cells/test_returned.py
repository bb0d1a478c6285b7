"""What a cell gave back is taken in by the notebook's kernel: in order, once, and never more than fits."""

from __future__ import annotations

import io
import math
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.cells import returned
from flyte_notebook.cells.returned import CellOutcome, ReturnedValues, bind
from flyte_notebook.cells.values import RESULT, Kept, Output, write_outputs
from flyte_notebook.core.private import UnwritableError
from flyte_notebook.worker.process.protocol import INLINE_BYTES
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from pathlib import Path


def outcome_of(directory: Path, *, result: Any = None, **values: Any) -> CellOutcome:
    """Return an outcome with these values."""
    outputs = [Output(name=name, value=value, wanted=True) for name, value in values.items()]
    if result is not None:
        outputs.append(Output(name=RESULT, value=result))
    written = write_outputs(outputs, namespace={}, place=lambda: str(directory / "values"))
    return CellOutcome(segments=written.segments, data=written.data, path=written.path, kept=written.kept)


def test_small_values_travel_inline_and_large_ones_in_a_file(tmp_path: Path) -> None:
    """Up to 1 MiB in all nothing is written to disk; beyond it everything is in one file, which can be removed."""
    small = outcome_of(tmp_path, x=1)
    assert (True, None) == (small.data is not None, small.path)
    large = outcome_of(tmp_path, result="r", x=b"x" * INLINE_BYTES, y=2)
    assert (None, str(tmp_path / "values")) == (large.data, large.path)
    values = ReturnedValues(CellOutcome.unpack(large.pack()))
    assert ("r", {"x": b"x" * INLINE_BYTES, "y": 2}) == (values.result, values.outputs)
    large.discard()
    large.discard()
    assert [] == list(tmp_path.iterdir())


def test_the_result_is_loaded_alone(tmp_path: Path) -> None:
    """Who wants nothing but the value of the last expression does not load the rest."""
    values = ReturnedValues(outcome_of(tmp_path, result=7, x=b"x" * INLINE_BYTES))
    assert 7 == values.result
    assert 1 == len(values._todo)
    assert ["x"] == list(values.outputs)


def test_values_are_loaded_once(tmp_path: Path) -> None:
    """Asking again gives the same objects."""
    values = ReturnedValues(outcome_of(tmp_path, result=[1], x=[2]))
    assert values.result is values.result
    assert values.outputs["x"] is values.outputs["x"]


def test_the_kernel_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """An output larger than the memory to be had is not loaded; the note says how much it needs and what there is."""
    outcome = outcome_of(tmp_path, small=1, big=b"x" * (20 << 20))
    values = ReturnedValues(outcome, available_bytes=lambda: 50 << 20)
    namespace: dict[str, Any] = {}
    assert ("`big` was not brought back: it needs about 20 MiB and the notebook's kernel can have 50 MiB",) == bind(
        values, namespace
    )
    assert {"small": 1} == namespace
    assert {"small", "big"} == ReturnedValues(outcome, available_bytes=lambda: 90 << 20).outputs.keys()


class Unloadable:
    """Pickles, and cannot be loaded in this process."""

    loads = True

    def __setstate__(self, state: Any) -> None:
        if not type(self).loads:
            raise ValueError("not here")

    def __getstate__(self) -> Any:
        return {"filled": True}


def test_what_cannot_be_loaded_is_told_and_the_values_before_it_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that fails in the kernel takes those after it along, which may share objects with it."""
    outcome = outcome_of(tmp_path, result=1, odd=Unloadable(), zoo=bytes(5000))
    monkeypatch.setattr(Unloadable, "loads", False)
    values = ReturnedValues(outcome)
    assert (1, {}) == (values.result, values.outputs)
    assert {
        "odd": "it could not be loaded: ValueError: not here",
        "zoo": "it comes after `odd`, which was not loaded",
    } == values.lost


def test_a_module_that_cannot_be_imported_here_is_told() -> None:
    """The other modules are bound."""
    namespace: dict[str, Any] = {}
    outcome = CellOutcome(modules={"m": "math", "n": "fnb_no_such_module"})
    (note,) = bind(ReturnedValues(outcome), namespace)
    assert {"m": math} == namespace
    assert "`n` was imported in the task only: ModuleNotFoundError" in note


def test_notes_of_several_outputs_are_one_line_each_kind() -> None:
    """Large outputs share one line, and so do those that cannot be pickled; the last value is not told twice."""
    kept = [
        Kept(name="a", reason="too large", type_name="list", size_bytes=100 << 20),
        Kept(name="b", reason="too large", type_name="Box"),
        Kept(name=RESULT, reason="too large", type_name="list"),
        Kept(name="f", reason="cannot be pickled", type_name="_thread.lock", path="f.lock"),
    ]
    assert (
        "`a` (100 MiB), `b` were not copied back because they are over 64 MiB. To get them, add `-o a,b`",
        "`f.lock` (_thread.lock) cannot be pickled and stays in the task",
    ) == CellOutcome(kept=tuple(kept)).notes
    assert ("the last value was not copied back because it is over 64 MiB",) == CellOutcome(kept=(kept[2],)).notes


def test_only_an_outcome_is_unpacked() -> None:
    """Bytes of something else are refused."""
    with pytest.raises(TypeError, match="not what a cell gives back: list"):
        CellOutcome.unpack(pickling.dumps([1]))


def test_the_stages_name_each_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an output is written the outside knows its name."""
    heard: list[tuple[str, str | None]] = []
    stage = "flyte_notebook.worker.process.context.stage"
    monkeypatch.setattr(stage, lambda stage, detail: heard.append((stage, detail)))
    outcome_of(tmp_path, result=[0], x=1, y=[1, 2])
    assert [("returning", "the last value"), ("returning", "x"), ("returning", "y")] == heard


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    """An output is not called unpicklable because the disk is full; and nothing half written stays."""
    import resource  # noqa: PLC0415 - POSIX only

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = Output(name="x", value=bytes(20 << 20), wanted=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, before[1]))
    try:
        with pytest.raises(UnwritableError, match=r"File too large: 20 MiB cannot be written to .*/values"):
            write_outputs([output], namespace={}, place=lambda: str(tmp_path / "values"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [] == list(tmp_path.iterdir())


def test_functions_come_back_with_their_text() -> None:
    """Code that the task made from a text of its own shows its lines in the notebook."""
    sources = {"<made in the task>": ["def made(): pass\n"]}
    ReturnedValues(CellOutcome(sources=sources))
    import linecache  # noqa: PLC0415 - looked at here only

    assert "def made(): pass\n" == linecache.getline("<made in the task>", 1)
    del linecache.cache["<made in the task>"]


def test_a_stream_is_read_without_a_second_copy(tmp_path: Path) -> None:
    """Large bytes are read straight into their place."""
    outcome = outcome_of(tmp_path, x=b"y" * (3 << 20))
    reader = returned._Reopened(outcome)
    buffer = bytearray(10)
    with reader.opened(0):
        assert 10 == reader.readinto(buffer)
        file = reader._reader._file
        assert isinstance(file, io.BufferedReader)
    assert file.closed
