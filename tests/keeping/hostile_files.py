"""Files that are no files of saved runs, or more than that: each is made, and loaded in a process of its own.

Not a test: the program that `test_hostile` starts.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ran import full_run, small_run

from flyte_notebook.storage import StoreError, load, save, store

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[Path], object]

MI = 1 << 20
MOST = 8 * MI
"""So large the facts of one run may be."""

INSERT = "INSERT INTO runs (name, saved_s, size, facts) VALUES ({}, {}, 1, {})"

FILES: dict[str, Make] = {}


def _noise() -> bytes:
    return random.Random(1).randbytes(MI)  # noqa: S311 - the same each time


def _bytes(name: str, content: Callable[[], bytes]) -> None:
    FILES[name] = lambda place: place.write_bytes(content())


def _executed(place: Path, *statements: str, rows: tuple[str, list[tuple[Any, ...]]] | None = None) -> None:
    """Have these statements executed in a file of saved runs, and then one for each of the rows."""
    save(small_run("one"), place)
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        if rows is not None:
            connection.executemany(*rows)
        connection.execute("COMMIT")


def _runs(name: str, facts: Callable[[], str], times: int = 1) -> None:
    """Have a row written so often into a file of saved runs."""

    def make(place: Path) -> None:
        text = facts()
        assert len(text) <= MOST
        _executed(place, rows=(INSERT.format("'x'", "1.0", "?"), [(text,)] * times))

    FILES[name] = make


def _repeated(one: str, *, begin: str = "[", end: str = "]") -> Callable[[], str]:
    return lambda: begin + one * ((MOST - len(begin) - len(end)) // len(one)) + end


def _run_of(**changes: Any) -> str:
    return json.dumps({**small_run("x").to_dict(), **changes}, separators=(",", ":"))


def _actions() -> str:
    facts = small_run("x").to_dict()
    many = [{**facts["actions"][0], "name": f"a{number}"} for number in range(9_000)]
    return _run_of(actions=many)


def _samples() -> str:
    facts = full_run().to_dict()
    for action in facts["actions"]:
        for attempt in action["attempts"]:
            attempt["memory"] = {"times_s": [0] * 500_000, "memory_bytes": [0] * 500_000}
    facts["actions"] = facts["actions"][:1]
    return json.dumps(facts, separators=(",", ":"))


def _sparse(place: Path, end: str = "") -> None:
    save(small_run("one"), place)
    with place.with_name(place.name + end).open("ab") as file:
        file.truncate(4 << 30)


_bytes("nothing", lambda: b"")
_bytes("noise", _noise)
_bytes("zeros", lambda: bytes(MI))
_bytes("text", lambda: b"saved\n" * MI)
_bytes("head alone", lambda: store.MAGIC + bytes(84))
_bytes("noise with a head", lambda: store.MAGIC + _noise())
FILES["pipe"] = os.mkfifo
FILES["device"] = lambda place: place.symlink_to("/dev/zero")
FILES["directory"] = Path.mkdir
FILES["link to itself"] = lambda place: place.symlink_to(place)
FILES["sparse"] = _sparse
FILES["sparse journal"] = lambda place: _sparse(place, "-journal")
FILES["noise for a journal"] = lambda place: (
    save(small_run("one"), place),
    place.with_name(place.name + "-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + _noise()),
)
FILES["log beside it"] = lambda place: (
    save(small_run("one"), place),
    place.with_name(place.name + "-wal").write_bytes(bytes(MI)),
)
FILES["a thousand tables"] = lambda place: _executed(place, *(f"CREATE TABLE t{number} (a)" for number in range(1_000)))
FILES["a table of many columns"] = lambda place: _executed(
    place, f"CREATE TABLE t ({', '.join(f'c{number}' for number in range(2_000))})"
)
FILES["large definition"] = lambda place: _executed(place, f"CREATE TABLE t (a DEFAULT '{'x' * 20 * MI}')")
FILES["view"] = lambda place: _executed(
    place,
    "ALTER TABLE runs RENAME TO other",
    "CREATE VIEW runs AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT x AS id, 'x' AS name, 1.0 AS saved_s, 1 AS size, '{}' AS facts FROM c",
)
FILES["computed column"] = lambda place: _executed(
    place,
    "DROP TABLE runs",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, saved_s REAL, size INTEGER, "
    "facts TEXT AS (hex(zeroblob(4000000)) LIKE '%0%0%0%0%0%0%0%1'))",
    "INSERT INTO runs (name, saved_s, size) VALUES ('x', 1.0, 1)",
)
FILES["trigger"] = lambda place: _executed(place, "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END")
FILES["a hundred thousand rows"] = lambda place: _executed(
    place,
    rows=(INSERT.format("?", "1.0", "'{}'"), [("x",)] * 100_000),
)
FILES["large name and large row"] = lambda place: _executed(
    place,
    rows=(
        INSERT.format("?", "1.0", "?"),
        [("x" * 7 * MI, "{}"), ("x" * 30 * MI, "{}"), ("x", "x" * 30 * MI)],
    ),
)
FILES["odd dates"] = lambda place: _executed(
    place,
    rows=(
        INSERT.format("'x'", "?", "?"),
        [(date, _run_of()) for date in (1e300, float("inf"), -1.0, -1e300, 253402300800.0, "now", b"now")],
    ),
)
_runs("one string", _repeated("x", begin='"', end='"'))
_runs("lists", _repeated("[],", end="[]]"))
_runs("dictionaries", _repeated("{},", end="{}]"))
_runs("numbers", _repeated("0,", end="0]"))
_runs("numbers of 4,000 digits", _repeated("9" * 4_000 + ",", end="0]"))
_runs("one long number", _repeated("9", begin="", end=""))
_runs("deep", _repeated("[", begin="", end=""))
_runs("quotes that do not end", _repeated('\\"', begin='"', end=""))
_runs("wide letters", lambda: _run_of(advice="\U0001f600" + "x" * (MOST - 5_000)), 5)
_runs("many wide texts", _repeated(f'"\\ud83d\\ude00{"x" * 50}",', end='""]'), 5)
_runs("runs of many actions", _actions, 8)
_runs("runs of many samples", _samples, 8)


def _loaded(place: Path) -> tuple[str, float, float]:
    """Return what loading a file ended with, how long it took in seconds, and by how many MiB the process grew."""
    before_bytes = _told("VmRSS")
    began_s = time.monotonic()
    try:
        runs = load(place)
        ended = f"{len(runs)} runs"
        repr(runs), [(repr(run), run.saved_words) for run in runs]
    except StoreError as error:
        ended = f"StoreError: {error}"[:200]
    except BaseException as error:  # noqa: BLE001 - whatever it is
        ended = f"{type(error).__name__}: {error}"[:200]
    took_s = time.monotonic() - began_s
    return ended, took_s, (_told("VmHWM") - before_bytes) / MI


def _told(name: str) -> int:
    """Return what the system tells of the memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def main(directory: Path) -> None:
    """Make each file, load it in a process that is forked for it, and print what came of it."""
    warnings.simplefilter("ignore")
    found = {}
    for name, make in FILES.items():
        place = directory / "file"
        if not os.fork():  # what it makes is no memory of ours
            make(place)
            os._exit(0)
        os.wait()
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, json.dumps(_loaded(place)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            found[name] = json.loads(said.read() or b'["it died", 0, 0]')
        os.wait()
        for file in directory.iterdir():
            file.rmdir() if file.is_dir() else file.unlink()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
