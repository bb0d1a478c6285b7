"""What stands for something outside of the process: a task cell reaches the same file or memory as a plain cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

FILE = """import mmap, tempfile, numpy as np
from multiprocessing import shared_memory
_kept |= {"mmap", "tempfile", "np", "shared_memory"}
path = tempfile.mkdtemp() + "/na me.bin"
np.arange(4000, dtype="int32").tofile(path)
def on_disk(count=4):
    return np.fromfile(path, "int32")[:count].tolist()
"""
MAPPED = FILE + "m = np.memmap(path, 'int32', 'r+', shape=(100, 40))\nbefore = id(m)\n"
AFTER = "(type(m).__name__, id(m) == before, m.shape, m.flat[:4].tolist(), on_disk())"
PRIVATE = FILE + "m = np.memmap(path, 'int32', 'c', shape=(100, 40)); m[0, 0] = 7\n"
RAW = FILE + "_file = open(path, 'r+b')\nm = mmap.mmap(_file.fileno(), 0)\nbefore = id(m)\n"
SHARED = FILE + (
    "s = shared_memory.SharedMemory(create=True, size=4096)\n"
    "a = np.ndarray((4,), 'int32', buffer=s.buf); a[:] = 0\nbefore = id(s), id(a)\n"
)

CASES = {
    "a write": Case("m[0] = 5", MAPPED, AFTER),
    "a write through a function": Case("put()", MAPPED + "def put():\n    m[0, 1] = 6", AFTER),
    "a write to an argument": Case("put(m)", MAPPED + "def put(x):\n    x[0, 1] = 6", AFTER),
    "a write in place": Case("m += 1", MAPPED, AFTER),
    "a flush": Case("m[0, 2] = 9; m.flush()", MAPPED, AFTER),
    "a file that was renamed": Case("m[0] = 5", MAPPED + "os.rename(path, path + '2'); path += '2'", AFTER),
    "how it is": Case(
        "print(type(m).__name__, m.mode, m.offset, m.dtype, m.shape, m.strides, m.filename == path, m.flags)",
        FILE + "m = np.memmap(path, 'int16', 'r+', offset=6, shape=(30, 20), order='F')",
    ),
    "made with w+": Case(
        "m[0] = 3; print(m.mode)",
        FILE + "m = np.memmap(path, 'int32', 'w+', shape=(100, 40)); m[:] = 2; before = id(m)",
        AFTER,
    ),
    "an offset beyond a page": Case(
        "print(m[0]); m[1] = 1",
        FILE + "m = np.memmap(path, 'int32', 'r+', offset=5000)\nbefore = id(m)",
        "(int(m[1]), on_disk(1252)[-2:])",
    ),
    "a view": Case("v[:] = 8", MAPPED + "v = m[0, 1:3]", AFTER),
    "a view with steps back": Case("print(v[0]); v[::2] = 8", MAPPED + "v = m[::-3, ::-2]", "m[::9, :5].tolist()"),
    "a transposed view": Case("v[0, 1] = 8", MAPPED + "v = m.T", "m[:2, :2].tolist()"),
    "a plain array over it": Case("v[0] = 8", MAPPED + "v = np.asarray(m)[0]", AFTER),
    "two views of one file": Case(
        "pair[0][0] = 8\nprint(pair[1][0])", MAPPED + "pair = [m[0], m[0]]", "(pair[0][0], pair[1][0])"
    ),
    "in a dict": Case("d['m'][0] = 4", MAPPED + "d = {'m': m}", "(d['m'][0, 0], on_disk())"),
    "in a dict, through a function": Case(
        "put(d)", MAPPED + "d = {'m': m}\ndef put(x):\n    x['m'][0, 1] = 6", "(d['m'][0, 1], on_disk())"
    ),
    "read only": Case("m[0] = 5", FILE + "m = np.memmap(path, 'int32', 'r')", "on_disk()"),
    "read only, read": Case("m[:3].sum()", FILE + "m = np.memmap(path, 'int32', 'r')", "on_disk()"),
    "copy on write": Case("m[0, 1] = 5\nm[0, :3].tolist()", PRIVATE, "(m.mode, m[0, :3].tolist(), on_disk())"),
    "copy on write, read": Case("m[0, :3].tolist()", PRIVATE, "m[0, :3].tolist()"),
    "made in the cell": Case(
        "n = np.memmap(path, 'int32', 'r+')\nn[1] = 3", FILE, "(type(n).__name__, n[:3].tolist(), on_disk())"
    ),
    "a result": Case("m[0, :3]", MAPPED, "(type(_).__name__, _.tolist())"),
    "a saved array": Case(
        "x[0] = 5",
        FILE + "np.save(path + '.npy', np.arange(5))\nx = np.load(path + '.npy', mmap_mode='r+')",
        "np.load(path + '.npy').tolist()",
    ),
    "a mapped file": Case("m[0:1] = b'x'\nm[:5]", RAW, "(id(m) == before, m[:2], on_disk())"),
    "a mapped file, where it stands": Case("m.read(2)", RAW + "m.seek(4);", "on_disk()"),
    "a mapped file, read only": Case(
        "m[4:8]", FILE + "_file = open(path, 'rb')\nm = mmap.mmap(_file.fileno(), 0, access=mmap.ACCESS_READ)"
    ),
    "shared memory": Case("s.buf[0] = 7", SHARED, "(before == (id(s), id(a)), int(a[0]))"),
    "an array in shared memory": Case("a[1] = 7", SHARED, "(before == (id(s), id(a)), int(a[1]))"),
    "a shared list": Case(
        "names[0] = 'b'",
        FILE + "names = shared_memory.ShareableList(['a', 1])\nbefore = id(names)",
        "(id(names) == before, list(names))",
    ),
}


@pytest.fixture(autouse=True)
def _tracked(kernel: Kernel) -> Iterator[None]:
    """End the process that Python starts beside a notebook that makes shared memory; it removes that memory."""
    yield
    kernel.run("from multiprocessing import resource_tracker as _tracker\n_tracker._resource_tracker._stop();").ok()


@pytest.mark.parametrize("name", CASES)
def test_what_is_outside_is_reached_as_by_a_plain_cell(kernel: Kernel, name: str) -> None:
    """Output, value, error, the notebook's variable and the file are those of a plain cell."""
    plain, task = both(kernel, CASES[name])
    assert plain == task


@pytest.mark.parametrize("cell", ["m[0] = 5", "put(m)", "m += 1"])
def test_a_write_to_a_file_gets_no_note(kernel: Kernel, cell: str) -> None:
    """The file was changed, and so was what the notebook sees of it: there is nothing to say."""
    kernel.run(MAPPED + "def put(x):\n    x[0, 1] = 6").ok()
    assert [] == kernel.run(f"%%flyte_task\n{cell}").ok().notes


def test_a_private_change_in_a_function_is_named(kernel: Kernel) -> None:
    """What a copy on write holds in the task is named as any input that changed there."""
    kernel.run(PRIVATE + "def put(x):\n    x[0, 1] = 6").ok()
    assert ["`m` changed in the task only; add `-o m`"] == kernel.run("%%flyte_task\nput(m)").ok().notes
    assert [] == kernel.run("%%flyte_task\nm.sum()").ok().notes


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_large_file_counts_when_it_is_touched_only(kernel: Kernel, mode: str) -> None:
    """A file of 300 MiB is an input of a task that may use less."""
    kernel.run(
        FILE + f"with open(path, 'wb') as _file:\n    _file.truncate(300 << 20)\nm = np.memmap(path, 'u1', {mode!r})"
    ).ok()
    reply = kernel.run("%%flyte_task --memory 220Mi\nint(m[0]) + int(m[-1]), m.nbytes").ok()
    assert (f"(0, {300 << 20})", []) == (reply.result, [note for note in reply.notes if "peak" not in note])


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("os.remove(path)", r"its file {path} is gone"),
        ("np.zeros(9000).tofile(path + '2'); os.replace(path + '2', path)", r"its file {path} is gone"),
        ("os.truncate(path, 8000)", r"its file {path} has 8000 bytes now, and 16000 are mapped"),
    ],
)
def test_a_file_that_is_gone_is_named_before_the_task_starts(kernel: Kernel, setup: str, said: str) -> None:
    """The variable and its file are named, and no task runs."""
    kernel.run(MAPPED + setup).ok()
    before = kernel.value("len(fn.runs)")
    reply = kernel.run("%%flyte_task\nprint('ran', m[0])")
    assert "error" == reply.status
    assert said.format(path=kernel.value("path")) in (reply.evalue or "")
    assert "`m`" in (reply.evalue or "")
    assert "" == reply.stdout
    assert before == kernel.value("len(fn.runs)")


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("import sqlite3\nx = sqlite3.connect(path + '.db')", "sqlite3.connect({path!r} + '.db')"),
        ("import mmap\nx = mmap.mmap(-1, 100)", "memory without a file"),
        ("s = shared_memory.SharedMemory(create=True, size=9); x = [s]; s.unlink()", "is gone"),
        ("x = open(path)", "cannot be pickled"),
        ("import socket\nx = socket.socket(); x.close()", "cannot be pickled"),
    ],
)
def test_what_cannot_be_reached_from_elsewhere_is_refused(kernel: Kernel, setup: str, said: str) -> None:
    """The refusal says what it is, and where it can be had in the cell."""
    kernel.run(FILE + setup).ok()
    reply = kernel.run("%%flyte_task\nprint(x)")
    path = str(kernel.value("path"))
    said = said.replace("{path!r} + '.db'", repr(path + ".db"))
    assert "error" == reply.status
    assert said in (reply.evalue or "")
    assert "" == reply.stdout


def test_shared_memory_outlives_the_tasks_that_used_it(kernel: Kernel) -> None:
    """No task removes at its end what it was lent."""
    kernel.run(SHARED).ok()
    for number in (1, 2):
        assert [] == kernel.run(f"%%flyte_task\ns.buf[0] = {number}").ok().notes
    assert (True, 2) == kernel.value("(os.path.exists('/dev/shm/' + s.name), s.buf[0])")


def test_a_cached_cell_runs_again_when_its_file_changed(kernel: Kernel, tmp_path: Path) -> None:
    """The cache knows the content of a file that is mapped, however large the file or what stands beside it."""
    kernel.run(MAPPED + "big = {'m': m, 'much': np.zeros(9_000_000)}").ok()
    for variable in ("m", "big['m']"):
        cell = f"%%flyte_task --cache auto\nopen({str(tmp_path / 'ran')!r}, 'a').write('x')\nint({variable}[3, 3])"
        seen = [kernel.run(cell).ok().result, kernel.run(cell).ok().result]
        kernel.run("m[3, 3] += 1").ok()
        seen.append(kernel.run(cell).ok().result)
        first = int(seen[0] or "")
        assert [str(first), str(first), str(first + 1)] == seen
    assert "xxxx" == (tmp_path / "ran").read_text()
