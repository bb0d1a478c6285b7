"""Files of pickled values: large buffers stand apart, and are read into memory of their own."""

from __future__ import annotations

import io
import mmap
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flyte_notebook.worker.process.protocol import INLINE_BYTES
from flyte_notebook.worker.process.spool import APART_BYTES, Spool, SpoolReader, TooLargeError
from flyte_notebook.worker.values import named_pickles, pickling

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def place(tmp_path: Path) -> Callable[[], str]:
    """Return what names a new file."""
    numbers = iter(range(1000))
    return lambda: str(tmp_path / str(next(numbers)))


def written(place: Callable[[], str], *values: Any, hashed: bool = False) -> Spool:
    """Write values with one pickler."""
    spool = Spool(place, hashed=hashed)
    pickler = pickling.CellPickler(spool, take_buffer=spool.take_buffer)
    for value in values:
        pickler.dump(value)
    return spool


def opened(spool: Spool) -> Any:
    """Return what was written as a file that is open for reading."""
    data = spool.finish()
    return io.BytesIO(data) if spool.path is None else Path(spool.path).open("rb")


def read(spool: Spool, count: int = 1) -> list[Any]:
    """Read so many values with one unpickler."""
    with opened(spool) as file:
        reader = SpoolReader(file)
        unpickler = pickling.CellUnpickler(reader, buffers=reader.buffers())
        return [unpickler.load() for _ in range(count)]


def owner(array: Any) -> Any:
    """Return what holds the memory of an array."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_a_large_array_gets_memory_of_its_own_and_can_be_written(place: Callable[[], str]) -> None:
    """The buffer of a loaded array is private memory that was allocated for it alone."""
    array = np.arange(APART_BYTES, dtype=np.uint8)
    (loaded,) = read(written(place, array))
    assert np.array_equal(array, loaded)
    assert isinstance(owner(loaded), mmap.mmap)
    loaded[0] = 99
    assert 99 == loaded[0]


def test_a_small_array_stays_in_the_pickle(place: Callable[[], str]) -> None:
    """Below a MiB nothing stands apart, and nothing goes to a file."""
    array = np.arange(APART_BYTES // 8 - 100)
    spool = written(place, array)
    (loaded,) = read(spool)
    assert spool.path is None
    assert np.array_equal(array, loaded)
    assert not isinstance(owner(loaded), mmap.mmap)


def test_many_values_come_back_in_order_whatever_they_are(place: Callable[[], str]) -> None:
    """Arrays of any layout, bytes, text and small things, shared between values or not."""
    big = np.random.default_rng(0).random((512, 1024))
    values = [
        1,
        big,
        {"again": big, "turned": np.asfortranarray(big), "view": big[:, ::3], "read only": _read_only(big)},
        b"x" * 3_000_000,
        bytearray(b"y" * 3_000_000),
        "ü" * 3_000_000,
        [big[:300].copy() for _ in range(3)],
        np.array(["text", None], dtype=object),
        "end",
    ]
    loaded = read(written(place, *values), len(values))
    assert loaded[2]["again"] is loaded[1]
    assert not loaded[2]["read only"].flags.writeable
    assert repr(values[7]) == repr(loaded[7])
    for before, after in zip(values, loaded, strict=True):
        assert type(before) is type(after)
    for key in values[2]:  # type: ignore[attr-defined]  # the dict
        assert np.array_equal(values[2][key], loaded[2][key])  # type: ignore[index]  # the dict
    assert all(np.array_equal(a, b) for a, b in zip(values[6], loaded[6], strict=True))  # type: ignore[call-overload]
    assert (values[3:6], values[8]) == (loaded[3:6], loaded[8])


def _read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_frames_and_tables_are_not_converted(place: Callable[[], str], library: str) -> None:
    """Their columns stand apart as they are."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": np.arange(300_000), "b": np.random.default_rng(0).random(300_000)})
    value = frame
    if library == "pyarrow":
        value = pytest.importorskip("pyarrow", reason="pyarrow is not installed").table(frame)
    spool = written(place, value)
    (loaded,) = read(spool)
    assert value.equals(loaded)
    with opened(spool) as file:
        kinds = _chunks(file)
    apart = sum(length for kind, length in kinds if kind == b"b")
    assert 2 * 300_000 * 8 <= apart <= 2 * 300_000 * 8 + 1024
    assert sum(length for kind, length in kinds if kind == b"p") < 20_000


def _chunks(file: Any) -> list[tuple[bytes, int]]:
    found = []
    while header := file.read(9):
        length = int.from_bytes(header[1:], "big")
        found.append((header[:1], length))
        file.seek(length, 1)
    return found


def test_reading_may_begin_at_any_value(place: Callable[[], str]) -> None:
    """Each value ends with a whole piece, so that its position is a beginning."""
    spool = Spool(place)
    positions = []
    for number in range(3):
        positions.append(spool.position)
        array = np.full(APART_BYTES, number, np.uint8)
        pickling.CellPickler(spool, take_buffer=spool.take_buffer).dump(array)
    with opened(spool) as file:
        file.seek(positions[1])
        reader = SpoolReader(file)
        assert 1 == pickling.CellUnpickler(reader, buffers=reader.buffers()).load()[0]


def test_names_come_with_a_spooled_value(place: Callable[[], str]) -> None:
    """As with any other pickle that says what is to be known by name."""
    spool = Spool(place)
    named_pickles.dump(np.zeros(APART_BYTES), spool)
    with opened(spool) as file:
        value, names = named_pickles.load_spooled(SpoolReader(file))
    assert (APART_BYTES, {}) == (len(value), names)


def test_writing_takes_no_memory_beside_the_value(place: Callable[[], str]) -> None:
    """Neither does reading, beside the loaded value: what Python allocates is a fraction of it."""
    import tracemalloc  # noqa: PLC0415 - slows down what is not looked at

    array = np.ones(8 << 20)
    tracemalloc.start()
    try:
        spool = written(place, array)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        (loaded,) = read(spool)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # the array's own is asked of the kernel
    finally:
        tracemalloc.stop()
    assert np.array_equal(array, loaded)


def test_equal_content_has_an_equal_digest_and_other_content_another(place: Callable[[], str]) -> None:
    """The buffers that stand apart count."""
    digests = []
    for number in (1, 1, 2):
        spool = written(place, np.full(APART_BYTES, number, np.uint8), hashed=True)
        spool.finish()
        digests.append(spool.hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_a_value_may_be_refused_for_its_size(place: Callable[[], str]) -> None:
    """Before its buffer is written."""
    spool = Spool(place)
    spool.begin(APART_BYTES)
    with pytest.raises(TooLargeError):
        pickling.CellPickler(spool, take_buffer=spool.take_buffer).dump(np.zeros(APART_BYTES + 1, np.uint8))
    assert spool.path is None
    spool.discard()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_an_error(place: Callable[[], str], keep: float) -> None:
    """Never a value with rubbish in it, wherever it is cut."""
    spool = written(place, np.zeros(3 * INLINE_BYTES, np.uint8), b"x" * 2_000_000)
    spool.finish()
    data = Path(str(spool.path)).read_bytes()
    reader = SpoolReader(io.BytesIO(data[: int(keep * len(data))]))
    unpickler = pickling.CellUnpickler(reader, buffers=reader.buffers())
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        [unpickler.load() for _ in range(2)]


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100, b"b" + (2**60).to_bytes(8, "big"), b"p" + (4).to_bytes(8, "big") + b"junk"]
)
def test_what_no_spool_wrote_is_an_error(data: bytes) -> None:
    """Nothing, something else, or a buffer larger than any memory."""
    reader = SpoolReader(io.BytesIO(data))
    with pytest.raises((EOFError, pickle.UnpicklingError, MemoryError)):
        pickling.CellUnpickler(reader, buffers=reader.buffers()).load()
