"""Saved runs in one file: nothing is lost between two writers, and whatever a file holds, an error says what."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest
from ran import full_run, small_run

from flyte_notebook.storage import StoreError, default_path, load, save, store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def test_what_is_saved_is_loaded(place: Path) -> None:
    """In the order in which it was saved, with the time; and the file can be deleted."""
    before = time.time()
    assert place == save(full_run("one"), place)
    save(small_run("two"), str(place))
    runs = load(place)
    assert ("one", "two") == runs.names
    assert full_run("one").to_dict()["actions"] == runs["one"].to_dict()["actions"]
    assert before <= (runs[0].saved_s or 0) <= time.time()
    assert [place] == list(place.parent.iterdir())
    place.unlink()
    save(small_run("three"), place)
    assert ("three",) == load(place).names


def test_the_same_run_is_kept_once(place: Path) -> None:
    """Saved again as it is, it becomes the newest; one of the same name that says something else stays beside it."""
    save(small_run("one"), place)
    save(small_run("two"), place)
    save(small_run("one"), place)
    assert ("two", "one") == load(place).names
    save(small_run("one", peak_mi=120), place)
    assert ("two", "one", "one") == load(place).names


def test_a_loaded_run_can_be_saved_elsewhere(place: Path) -> None:
    """It says the same there."""
    save(full_run(), place)
    (run,) = load(place)
    (copy,) = load(save(run, place.with_name("copy")))
    assert run.to_dict() == copy.to_dict()


def test_the_default_place_is_the_cache_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the variable says, made for this user alone; a relative one is ignored, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not yet"))
    assert tmp_path / "not yet" / "flyte-notebook" / "runs.sqlite" == default_path()
    with pytest.raises(StoreError, match="nothing is saved in"):
        load()
    place = save(small_run("one"))
    assert default_path() == place
    assert (0o600, 0o700) == (stat.S_IMODE(place.stat().st_mode), stat.S_IMODE(place.parent.stat().st_mode))
    assert ("one",) == load().names
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in default_path().parents
    assert not list(tmp_path.rglob("relative"))


def test_so_many_runs_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go."""
    monkeypatch.setattr(store, "MAX_RUNS", 3)
    for number in range(5):
        save(small_run(f"run-{number}"), place)
    assert ("run-2", "run-3", "run-4") == load(place).names


def test_so_many_bytes_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, and the file does not grow on."""
    size = len(small_run("run-0").to_json())
    monkeypatch.setattr(store, "MAX_BYTES", 30 * size)
    for number in range(35):
        save(small_run(f"run-{number}"), place)
    kept, file_size = load(place).names, place.stat().st_size
    assert "run-34" == kept[-1]
    assert 28 <= len(kept) <= 34
    for number in range(35, 60):
        save(small_run(f"run-{number}"), place)
    assert place.stat().st_size <= 1.3 * file_size


def test_a_run_that_is_too_large_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And pushes nothing out."""
    save(small_run("one"), place)
    monkeypatch.setattr(store, "MAX_RUN_BYTES", 100)
    with pytest.raises(StoreError, match="run two has 1 actions"):
        save(small_run("two"), place)
    assert ("one",) == load(place).names


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from ran import small_run
from flyte_notebook.storage import save, store
store.BUSY_S = 100.0  # one that is unlucky waits for all runs of the other
print(flush=True)
sys.stdin.readline()
for number in range({count}):
    save(small_run(f"{who}-{{number}}"), {place!r})
"""


def _writer(place: Path, who: str, count: int) -> subprocess.Popen[bytes]:
    code = WRITER.format(tests=str(Path(__file__).parent), who=who, count=count, place=str(place))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environ}
    return subprocess.Popen([sys.executable, "-c", code], **pipes)


def _go(*writers: subprocess.Popen[bytes]) -> None:
    """Let writers begin at the same moment, once all of them have loaded what they need."""
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()


def _ends(writer: subprocess.Popen[bytes]) -> int:
    with writer:
        return writer.wait(100)


@pytest.mark.slow
def test_two_notebooks_that_save_at_once_lose_nothing(place: Path) -> None:
    """Each of two processes adds its runs to a file that neither of them found there; every one is kept, in order."""
    writers = [_writer(place, who, 60) for who in ("left", "right")]
    _go(*writers)
    assert [0, 0] == [_ends(writer) for writer in writers]
    names = load(place).names
    for who in ("left", "right"):
        assert [f"{who}-{number}" for number in range(60)] == [name for name in names if name.startswith(who)]


def test_a_second_writer_waits_for_the_first(place: Path) -> None:
    """One that began while another was in the middle of its write is done as soon as that one is."""
    save(small_run("one"), place)
    with closing(sqlite3.connect(place, isolation_level=None)) as other, ThreadPoolExecutor(1) as thread:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE runs SET saved_s = 5.0")
        second = thread.submit(save, small_run("two"), place)
        assert ({second}, set()) == wait([second], 0.5)[::-1]
        other.commit()
        assert place == second.result(10)
    assert [5.0] == [run.saved_s for run in load(place) if run.name == "one"]
    assert ("one", "two") == load(place).names


def test_a_writer_that_is_killed_leaves_whole_runs(place: Path) -> None:
    """Whenever it dies, what it had saved is there, and the next one can save."""
    writer = _writer(place, "killed", 100_000)
    _go(writer)
    while not place.exists() or place.stat().st_size < 20_000:
        assert writer.poll() is None
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    _ends(writer)
    before = load(place).names
    assert [f"killed-{number}" for number in range(len(before))] == list(before) or len(before) == store.MAX_RUNS
    save(small_run("next"), place)
    assert (*before[-store.MAX_RUNS + 1 :], "next") == load(place).names


def test_what_a_killed_writer_left_half_done_is_undone(place: Path, tmp_path: Path) -> None:
    """Its journal lies beside a file that it had begun to change: what was saved before is there."""
    save(small_run("one"), place)
    copy = tmp_path / "copy"
    with closing(sqlite3.connect(place, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET facts = facts || ?", ("x" * 1_000_000,))
        for end in ("", "-journal"):
            shutil.copy(f"{place}{end}", f"{copy}{end}")
    assert place.stat().st_size < copy.stat().st_size
    assert ("one",) == load(copy).names


def test_a_look_at_the_file_does_not_end_its_lock(place: Path) -> None:
    """While one thread saves and another one wants to load, no other process writes."""
    save(small_run("one"), place)
    words = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with ThreadPoolExecutor(1) as thread, store._transaction(place, create=True):
        waits = thread.submit(load, place)
        assert set() == wait([waits], 0.2).done
        done = subprocess.run([sys.executable, "-c", words, str(place)], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr
    assert ("one",) == waits.result(10).names


def test_a_writer_that_waits_too_long_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else writes all the time: after a while that is said; reading what was there goes on."""
    save(small_run("one"), place)
    monkeypatch.setattr(store, "BUSY_S", 0.2)
    with closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another notebook has been writing to it for"):
            save(small_run("two"), place)
        assert ("one",) == load(place).names


def test_a_file_that_is_cut_off_anywhere_is_an_error(place: Path) -> None:
    """Wherever it ends: never an error of SQLite's, and never fewer runs without a word."""
    for number in range(12):
        save(small_run(f"run-{number}"), place)
    whole, seen = place.read_bytes(), set()
    for end in {*range(0, len(whole), 512), 1, 50, 99, 100, 101, len(whole) - 1}:
        place.write_bytes(whole[:end])
        with pytest.raises(StoreError) as caught:
            load(place)
        seen.add(str(caught.value).replace(str(place), "it").split(" (")[0])
    assert {"it is damaged or cut off", "it is no file of saved runs"} <= seen


def test_a_damaged_file_is_not_written_to(place: Path) -> None:
    """Its bytes stay as they are, for whoever can mend it."""
    for number in range(12):
        save(small_run(f"run-{number}"), place)
    place.write_bytes(place.read_bytes()[:9_000])
    with pytest.raises(StoreError, match="may be deleted"):
        save(small_run("next"), place)
    assert 9_000 == place.stat().st_size


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5_000])
def test_another_file_is_no_place_for_runs(place: Path, content: bytes) -> None:
    """It is said, and the file stays as it is."""
    place.write_bytes(content)
    for call in (lambda: load(place), lambda: save(small_run("one"), place)):
        with pytest.raises(StoreError):
            call()
    assert content == place.read_bytes()


def test_the_database_of_another_program_is_left_alone(place: Path) -> None:
    """Also when it has a table of that name."""
    with closing(sqlite3.connect(place)) as theirs:
        theirs.execute("CREATE TABLE runs (name TEXT, saved_s REAL, facts TEXT)")
        theirs.commit()
    before = place.read_bytes()
    for call in (lambda: load(place), lambda: save(small_run("one"), place)):
        with pytest.raises(StoreError, match="is no file of saved runs"):
            call()
    assert before == place.read_bytes()


def _execute(place: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(sql, values)
        connection.commit()


def test_a_file_of_a_later_version_is_neither_read_nor_written(place: Path) -> None:
    """Both versions are named."""
    save(small_run("one"), place)
    _execute(place, "PRAGMA user_version = 7")
    before = place.read_bytes()
    for call in (lambda: load(place), lambda: save(small_run("two"), place)):
        with pytest.raises(StoreError, match=r"a later version of flyte_notebook \(layout 7, here 1\)"):
            call()
    assert before == place.read_bytes()


@pytest.mark.parametrize(
    "facts",
    ["{", "null", b"\xff\xfe", 5, '{"version": 99, "name": "x"}', "[" * 100_000, '{"name": 1' + "0" * 5_000 + "}"],
)
def test_a_run_that_cannot_be_read_does_not_hide_the_others(place: Path, facts: object) -> None:
    """The others come, with a warning that says how many are left out and why the first is."""
    for name in ("one", "two", "three"):
        save(small_run(name), place)
    _execute(place, "UPDATE runs SET facts = ? WHERE name = 'two'", facts)
    with pytest.warns(RuntimeWarning, match="1 of 3 runs in .* are left out, the first is 'two': "):
        assert ("one", "three") == load(place).names


def test_text_that_is_no_text_is_damage(place: Path) -> None:
    """SQLite does not look at what it is given; Python does."""
    save(small_run("one"), place)
    _execute(place, "UPDATE runs SET facts = CAST(X'FF7B' AS TEXT)")
    with pytest.raises(StoreError, match="is damaged"):
        load(place)


@pytest.mark.parametrize("path", ["{here}", "{here}/no/such/folder/runs.sqlite", "/dev/null", "nul\x00.sqlite"])
def test_a_path_that_cannot_hold_runs_is_said(path: str, tmp_path: Path) -> None:
    """A directory, a folder that is not there, a device, no path at all."""
    with pytest.raises(StoreError):
        save(small_run("one"), path.format(here=tmp_path))
    with pytest.raises(StoreError):
        load(path.format(here=tmp_path))


def test_a_path_may_hold_what_addresses_mean_something_with(tmp_path: Path) -> None:
    """Question marks, percent signs and umlauts are parts of a name."""
    place = tmp_path / "what? 100% #1 größer.sqlite"
    save(small_run("one"), place)
    assert ("one",) == load(place).names
    assert [place] == list(tmp_path.iterdir())


def test_sqlite_is_used_by_nobody_else() -> None:
    """One home for it, as for a foreign library."""
    package = Path(store.__file__).parent.parent
    using = [path.stem for path in package.rglob("*.py") if "import sqlite3" in path.read_text("utf-8")]
    assert ["store"] == using
