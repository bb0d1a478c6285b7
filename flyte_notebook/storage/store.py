"""Keeps saved runs in one file, a SQLite database: the facts of each run as JSON, and the time of saving.

SQLite, because two notebooks may write at the same moment and one may be killed during a write: a write is complete or
has no effect, and the second writer waits. It uses the old rollback journal, not the write-ahead log, which leaves two
more files and does not work on network file systems (https://sqlite.org/wal.html). Only this module uses ``sqlite3``,
and it converts all of its errors.

A file is recognised by the number in its header that SQLite leaves to applications
(https://sqlite.org/fileformat2.html#application_id), so that this module never writes into the database of another
program.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from flyte_notebook.core import private
from flyte_notebook.core.bound import clock_s, monotonic_s
from flyte_notebook.history import Runs
from flyte_notebook.storage import bounded
from flyte_notebook.storage.facts import FactsError, run_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.history import Run

MAX_RUNS: Final = 500
MAX_BYTES: Final = 24 * 2**20
"""The maximum size of all runs in a file; above it the oldest are removed."""

MAX_RUN_BYTES: Final = 8 * 2**20
"""A larger run is refused: a third of all others would have to be removed for it."""

MAX_FILE_BYTES: Final = 256 * 2**20
"""A file of saved runs is always smaller, also after removals."""

MAX_LOADED_BYTES: Final = 64 * 2**20
"""Roughly the maximum memory of the loaded runs; the oldest are left out."""

LOAD_S: Final = 1.5
"""The maximum time for reading a file, newest runs first; older runs that were not read by then are left out."""

BUSY_S: Final = 10.0
"""How long one writer waits for another."""

APPLICATION_ID: Final = 0x464E4231
SCHEMA_VERSION: Final = 1

LATEST_S: Final = 250e9
"""The year 9892: Python has no dates much later."""

ROW_BYTES: Final = 64 << 10
"""The maximum size of a row beside the facts."""

STEPS: Final = 20_000
"""Steps of SQLite's virtual machine between two checks of the clock, some milliseconds."""

MAGIC: Final = b"SQLite format 3\0"
BEGINNING_BYTES: Final = 108
LEAF_OF_A_TABLE: Final = 0x0D
MAX_TABLES: Final = 8
"""Our file has one, and SQLite has another one for its numbers."""

_TABLE: Final = """CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, saved_s REAL NOT NULL, size INTEGER NOT NULL,
    facts TEXT NOT NULL)"""
_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_turn: Final = threading.Lock()
"""Protects open files: closing one ends this process's locks on the file by other descriptors (fcntl(2))."""

_DELETABLE: Final = "it holds nothing but saved runs, and may be deleted"


class StoreError(RuntimeError):
    """Runs cannot be saved to a file or loaded from it. The message names the file, the reason and a remedy."""


def default_path() -> Path:
    """Return the default path of saved runs: in this user's cache, which is safe to delete.

    Raises `StoreError` for a user without a home.
    """
    try:
        return private.cache_directory() / "runs.sqlite"
    except RuntimeError:
        raise StoreError("this user has no home, so there is no place for runs; give a path") from None


def save(run: Run, path: str | os.PathLike[str] | None = None) -> Path:
    """Save a run, and return the file. An unchanged run is not saved twice; it becomes the newest.

    A missing file is made, readable by its owner alone. Raises `StoreError`; then earlier saved runs are unchanged.
    """
    try:
        facts = _to_json(run.to_dict())
    except ValueError as error:
        raise StoreError(f"run {run.name} cannot be saved: {error}") from None
    if len(facts) > MAX_RUN_BYTES:
        size, most = len(facts) >> 20, MAX_RUN_BYTES >> 20
        raise StoreError(f"run {run.name} has {len(run.actions):,} actions, {size} MiB of facts; at most {most} MiB")
    place = _place(path)
    if path is None:
        with _errors(place):
            private.lasting(place.parent)
    with _errors(place), _transaction(place, create=True) as connection:
        connection.execute("DELETE FROM runs WHERE name = ? AND facts = ?", (run.name, facts))
        connection.execute(
            "INSERT INTO runs (name, saved_s, size, facts) VALUES (?, ?, ?, ?)",
            (run.name, clock_s(), len(facts), facts),
        )
        _trim(connection)
    return place


def load(path: str | os.PathLike[str] | None = None) -> Runs:
    """Return the saved runs, the newest last.

    A run that cannot be read, or that a later version wrote, is left out with a warning, and so are the oldest if there
    are too many: any file is read in bounded memory and time. Raises `StoreError` when the file is missing, damaged, or
    not a file of this package.
    """
    place = _place(path)
    until_s = monotonic_s() + LOAD_S
    with _errors(place), _transaction(place, create=False, until_s=until_s) as connection:
        read, older = _newest_first(connection, until_s)
    read.reverse()
    wrong = [one for one in read if isinstance(one, str)]
    if wrong:
        words = f"{len(wrong)} of {len(read)} runs in {place} are left out, the first is {wrong[0]}"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    if older:
        words = f"the oldest runs in {place} are left out: it holds more than is read at one time"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return Runs(one for one in read if not isinstance(one, str))


def _newest_first(connection: sqlite3.Connection, until_s: float) -> tuple[list[Run | str], bool]:
    """Return the saved runs within the limits of memory and time, and whether more exist; a text for a bad one."""
    read: list[Run | str] = []
    left_bytes = MAX_LOADED_BYTES
    ids = connection.execute("SELECT rowid FROM runs ORDER BY rowid DESC LIMIT ?", (MAX_RUNS + 1,)).fetchall()
    for (one,) in ids[:MAX_RUNS]:
        try:
            row = connection.execute("SELECT name, saved_s, facts FROM runs WHERE rowid = ?", (one,)).fetchone()
        except sqlite3.DataError:  # SQLITE_TOOBIG
            read.append(f"number {one}: it is larger than {MAX_RUN_BYTES >> 20} MiB")
            continue
        run = _read(*row)
        left_bytes -= 0 if isinstance(run, str) else bounded.kept_bytes(row[2])
        if left_bytes < 0:
            return read, True
        read.append(run)
        if monotonic_s() > until_s:
            break
    return read, len(ids) > len(read)


def _read(name: object, saved_s: object, facts: object) -> Run | str:
    """Return a saved run, or a text that says why it cannot be read."""
    if not isinstance(facts, str):
        return f"{name!r:.100}: it is no text"
    if not isinstance(saved_s, float) or not 0 <= saved_s < LATEST_S:
        return f"{name!r:.100}: its date is {saved_s!r:.100}"
    try:
        return run_from(bounded.parsed(facts), saved_s=saved_s)
    except (FactsError, OverflowError, RecursionError) as error:
        return f"{name!r:.100}: {error}"


def _place(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        return default_path()
    try:
        place = Path(path).expanduser().absolute()
    except (TypeError, RuntimeError, OSError) as error:  # an invalid path, no home of that user, no current directory
        raise StoreError(f"{path!r:.100} is no path: {error}") from None
    return place


@contextmanager
def _errors(place: Path) -> Iterator[None]:
    """Convert errors about a file to messages of this package."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_words(place, error)) from None
    except UnicodeError:
        raise StoreError(f"{place} is damaged; {_DELETABLE}") from None
    except MemoryError:
        raise StoreError(f"{place} takes more memory than there is") from None
    except OSError as error:
        raise StoreError(f"{place}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise StoreError(f"{str(place)!r}: {error}") from None


def _words(place: Path, error: sqlite3.Error) -> str:
    said = str(error)
    if "locked" in said:
        return f"{place}: another notebook has been writing to it for {BUSY_S:g} s; try again"
    if "interrupted" in said:
        return f"{place} takes longer than {LOAD_S:g} s to read; {_DELETABLE}"
    if "not a database" in said:
        return f"{place} is no file of saved runs"
    if "malformed" in said or "disk I/O" in said or "decode" in said:
        return f"{place} is damaged or cut off ({said}); {_DELETABLE}"
    return f"{place}: {said}"


@contextmanager
def _transaction(place: Path, *, create: bool, until_s: float | None = None) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction, which is committed at the end of the block and rolled back when it raises.

    With ``until_s`` it only reads, a value that is too large for a run is an error, and no statement runs after that
    monotonic time.
    """
    address = f"file:{quote(str(place))}?mode=rw"  # if this user may not write, SQLite opens it for reading
    busy_s = BUSY_S if until_s is None else LOAD_S
    with ExitStack() as opened:
        opened.enter_context(_turn)
        _check(place, create=create)
        connection = opened.enter_context(
            closing(sqlite3.connect(address, uri=True, timeout=busy_s, isolation_level=None))
        )
        if until_s is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_RUN_BYTES + ROW_BYTES)
            connection.set_progress_handler(lambda: monotonic_s() > until_s, STEPS)
        connection.execute("PRAGMA trusted_schema = OFF")  # a malicious file cannot call functions of SQLite
        connection.execute("PRAGMA application_id").fetchall()  # this rolls back the incomplete write of a writer
        _check_beginning(place)
        connection.execute("BEGIN IMMEDIATE" if create else "BEGIN")
        try:
            _recognise(connection, place, create=create)
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _check(place: Path, *, create: bool) -> None:
    if place.is_dir():
        raise StoreError(f"{place} is a directory; name a file in it")
    if create:
        os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    elif not place.exists():
        raise StoreError(f"nothing is saved in {place}: there is no such file; %flyte save and fn.save(run) make it")
    journal, log = (place.with_name(place.name + end) for end in ("-journal", "-wal"))
    if not place.is_file() or log.exists():  # ours has no such log
        raise StoreError(f"{place} is no file of saved runs")
    for file in (place, journal):
        if file.exists() and file.stat().st_size > MAX_FILE_BYTES:
            raise StoreError(f"{file} has {file.stat().st_size >> 20:,} MiB, and no file of saved runs is as large")


def _check_beginning(place: Path) -> None:
    """Refuse a file whose first page cannot be of this package, before SQLite reads its table definitions.

    Source: https://sqlite.org/fileformat2.html, the header and the head of a b-tree page.
    """
    with place.open("rb") as file:
        begin = file.read(BEGINNING_BYTES)
    if not begin.startswith(MAGIC) or len(begin) < BEGINNING_BYTES:
        return  # empty, or SQLite reports the problem
    journalled = begin[18:20] == b"\x01\x01"
    leaf, cells = begin[100] == LEAF_OF_A_TABLE, int.from_bytes(begin[103:105], "big")
    if begin[16:20] and not (journalled and leaf and cells <= MAX_TABLES):
        raise StoreError(f"{place} is no file of saved runs")


def _recognise(connection: sqlite3.Connection, place: Path, *, create: bool) -> None:
    """Check that the file is ours and has a known version; initialise a new one."""
    names = ("application_id", "user_version", "page_count", "page_size")
    application, version, pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    known = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE name <> 'sqlite_sequence'"))
    if create and not application and not version and not known:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(_TABLE)
    elif application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise StoreError(
            f"{place} was written by a later version of flyte_notebook (layout {version}, here {SCHEMA_VERSION}); "
            "install that version, or save to another file"
        )
    elif application != APPLICATION_ID or known != {"runs": _TABLE}:  # columns may be computed, by any expression
        raise StoreError(f"{place} is no file of saved runs")
    elif place.stat().st_size < pages * page:  # SQLite would read zeros for the missing part of the last page
        raise StoreError(f"{place} is damaged or cut off; {_DELETABLE}")


def _trim(connection: sqlite3.Connection) -> None:
    """Remove the oldest runs above the limits of a file."""
    count, total = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM runs").fetchone()
    for one, size in connection.execute("SELECT id, size FROM runs ORDER BY id").fetchall():
        if count <= MAX_RUNS and total <= MAX_BYTES:
            return
        connection.execute("DELETE FROM runs WHERE id = ?", (one,))
        count, total = count - 1, total - size
