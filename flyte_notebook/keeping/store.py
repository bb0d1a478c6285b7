"""Saved runs in one file, which is a SQLite database: the facts of each run as JSON, and when it was saved.

SQLite, because two notebooks may write at the same moment and one may be killed in the middle: a write is whole or it
is not there, and the second one waits. Its old rollback journal, not its write-ahead log: that one leaves two more
files and does not work on a network's file system (https://sqlite.org/wal.html). The only home of ``sqlite3``; none of
its errors leaves this module.

A file is recognised by the number in its header that SQLite leaves to applications
(https://sqlite.org/fileformat2.html#application_id), so that nothing is ever written into the database of another
program.
"""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from flyte_notebook import private
from flyte_notebook.bound import clock_s, from_json
from flyte_notebook.history import Runs
from flyte_notebook.keeping.facts import FactsError, run_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.history import Run

MAX_RUNS: Final = 500
MAX_BYTES: Final = 64 * 2**20
"""So much a file holds; the oldest runs go."""

MAX_RUN_BYTES: Final = 16 * 2**20
"""A larger run is refused: it would push out a quarter of all others."""

BUSY_S: Final = 10.0
"""So long one writer waits for another."""

APPLICATION_ID: Final = 0x464E4231
SCHEMA_VERSION: Final = 1

_TABLE: Final = """CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, saved_s REAL NOT NULL, size INTEGER NOT NULL,
    facts TEXT NOT NULL)"""
_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_DELETABLE: Final = "it holds nothing but saved runs, and may be deleted"


class StoreError(RuntimeError):
    """Runs cannot be saved to a file or loaded from it. The message names the file, says why and what helps."""


def default_path() -> Path:
    """Return where runs are saved unless a path is given: in this user's cache, which is safe to delete.

    Raises `StoreError` for a user without a home.
    """
    try:
        return private.cache_directory() / "runs.sqlite"
    except RuntimeError:
        raise StoreError("this user has no home, so there is no place for runs; give a path") from None


def save(run: Run, path: str | os.PathLike[str] | None = None) -> Path:
    """Save a run, and return the file. A run that was saved as it is now is not saved twice; it becomes the newest.

    The file is made when it is not there, readable by its owner alone. Raises `StoreError`, and leaves what was saved
    before as it was.
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

    A run that cannot be read, or that a later version wrote, is left out with a warning. Raises `StoreError` when the
    file is not there, is damaged, or is no file of ours.
    """
    place = _place(path)
    with _errors(place), _transaction(place, create=False) as connection:
        rows = connection.execute("SELECT name, saved_s, facts FROM runs ORDER BY id")
        read = [_read(name, saved_s, facts) for name, saved_s, facts in rows]
    wrong = [one for one in read if isinstance(one, str)]
    if wrong:
        words = f"{len(wrong)} of {len(read)} runs in {place} are left out, the first is {wrong[0]}"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return Runs(one for one in read if not isinstance(one, str))


def _read(name: object, saved_s: object, facts: object) -> Run | str:
    """Return a saved run, or in words why it cannot be read."""
    if not isinstance(facts, str) or not isinstance(saved_s, float):
        return f"{name!r:.100}: it is no text"
    try:
        return run_from(from_json(facts), saved_s=saved_s)
    except FactsError as error:
        return f"{name!r:.100}: {error}"
    except (ValueError, OverflowError, RecursionError) as error:
        return f"{name!r:.100}: it is no JSON: {error}"


def _place(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        return default_path()
    try:
        place = Path(path).expanduser().absolute()
    except (TypeError, RuntimeError) as error:
        raise StoreError(f"{path!r:.100} is no path: {error}") from None
    return place


@contextmanager
def _errors(place: Path) -> Iterator[None]:
    """Say what went wrong with a file in our own words."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_words(place, error)) from None
    except UnicodeError:
        raise StoreError(f"{place} is damaged; {_DELETABLE}") from None
    except OSError as error:
        raise StoreError(f"{place}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise StoreError(f"{str(place)!r}: {error}") from None


def _words(place: Path, error: sqlite3.Error) -> str:
    said = str(error)
    if "locked" in said:
        return f"{place}: another notebook has been writing to it for {BUSY_S:g} s; try again"
    if "not a database" in said:
        return f"{place} is no file of saved runs"
    if "malformed" in said or "disk I/O" in said or "decode" in said:
        return f"{place} is damaged or cut off ({said}); {_DELETABLE}"
    return f"{place}: {said}"


@contextmanager
def _transaction(place: Path, *, create: bool) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction, which is done when the block ends and undone when it raises."""
    _check(place, create=create)
    address = f"file:{quote(str(place))}?mode=rw"  # where this user may not write, SQLite opens it to be read
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")  # a file that was made to harm runs no function of SQLite's
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
    elif not place.is_file():
        raise StoreError(f"{place} is no file of saved runs")


def _recognise(connection: sqlite3.Connection, place: Path, *, create: bool) -> None:
    """Make sure that the file is ours and of a version that is known here; begin it when it is new."""
    names = ("application_id", "user_version", "page_count", "page_size")
    application, version, pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if create and not application and not version and not tables:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(_TABLE)
    elif application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise StoreError(
            f"{place} was written by a later version of flyte_notebook (layout {version}, here {SCHEMA_VERSION}); "
            "install that version, or save to another file"
        )
    elif application != APPLICATION_ID or "runs" not in tables:
        raise StoreError(f"{place} is no file of saved runs")
    elif place.stat().st_size < pages * page:  # SQLite would read zeros for what is missing of the last page
        raise StoreError(f"{place} is damaged or cut off; {_DELETABLE}")


def _trim(connection: sqlite3.Connection) -> None:
    """Remove the oldest runs beyond what a file holds."""
    count, total = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM runs").fetchone()
    for one, size in connection.execute("SELECT id, size FROM runs ORDER BY id").fetchall():
        if count <= MAX_RUNS and total <= MAX_BYTES:
            return
        connection.execute("DELETE FROM runs WHERE id = ?", (one,))
        count, total = count - 1, total - size
