"""Records in the lines of a log: they are found wherever they were written, and the user's text stays as it was."""

from __future__ import annotations

import base64
import os
import zlib
from typing import Any

import pytest

from flyte_notebook.sdk.cluster import tagged

SMALL = {"sample": [1.5, 1024]}
LARGE = {"raised": {"message": base64.b64encode(os.urandom(9_000)).decode()}}
"""So much that it takes several pieces, though it is compressed."""


def read(*lines: str) -> tuple[str, list[dict[str, Any]]]:
    """Read the lines of one log; return all of the text, and all records."""
    reader, text, records = tagged.Reader(), "", []
    for line in lines:
        more, found = reader.read(line)
        text += more
        records += found
    return text, records


@pytest.mark.parametrize("record", [SMALL, LARGE, {"message": "ä\n[fnb 0] \u2028"}])
def test_a_record_is_read_as_it_was_written(record: dict[str, Any]) -> None:
    """However many pieces it takes, with the ends of lines and without."""
    lines = tagged.lines(record)
    assert ("", [record]) == read(*lines)
    assert ("", [record]) == read(*(line.rstrip("\n") for line in lines))


def test_each_piece_is_one_write(tmp_path: Any) -> None:
    """No other write is mixed into one that is at most as large as Linux takes at once for a pipe."""
    lines = tagged.lines(LARGE)
    assert 2 < len(lines)
    assert 4_096 >= max(len(line.encode()) for line in lines)
    with (tmp_path / "log").open("w+") as log:
        tagged.write(LARGE, log.fileno())
        log.seek(0)
        assert ("", [LARGE]) == read(*log)


@pytest.mark.parametrize("at", range(len("a line\n") + 1))
def test_a_users_line_is_joined_where_a_piece_was_written_into_it(at: int) -> None:
    """In a line that has no end yet, the piece ends the line of the log, and the rest is in the next one."""
    line = "a line\n"
    (piece,) = tagged.lines(SMALL)
    lines = (line[:at] + piece + line[at:]).splitlines(keepends=True)
    assert (line, [SMALL]) == read(*lines)
    assert (line.rstrip("\n"), [SMALL]) == tuple(
        part.rstrip("\n") if isinstance(part, str) else part for part in read(*(one.rstrip("\n") for one in lines))
    )


def test_text_is_kept_between_the_pieces_of_a_record() -> None:
    """Pieces of two records may alternate, too."""
    first, second = tagged.lines(LARGE), tagged.lines({"raised": LARGE["raised"], "n": 2})
    lines = [line for pair in zip(first, second, strict=False) for line in (pair[0], "between\n", pair[1])]
    lines += [*first[len(second) :], *second[len(first) :]]
    text, records = read(*lines)
    assert "between\n" * min(len(first), len(second)) == text
    assert sorted([LARGE, {"raised": LARGE["raised"], "n": 2}], key=len) == sorted(records, key=len)


def test_what_only_looks_like_a_piece_is_the_users() -> None:
    """With a wrong checksum, without its end, or with data that was never compressed."""
    (piece,) = tagged.lines(SMALL)
    wrong = piece.replace(piece[-10:-2], "00000000")
    assert (wrong, []) == read(wrong)
    assert (piece[:-3] + "\n", []) == read(piece[:-3])
    part = base64.b64encode(b"not compressed").decode()
    own = f"[fnb 00000000 0/1 {part} {zlib.crc32(part.encode()):08x}]\n"
    assert (own, [SMALL]) == read(own, piece)


def test_a_record_that_lost_a_piece_is_left_out() -> None:
    """As when the beginning of a log was thrown away; the ones after it are read, however many are incomplete."""
    lines = tagged.lines(LARGE)
    assert ("", [SMALL]) == read(*lines[1:], *tagged.lines(SMALL))
    broken = [tagged.lines(LARGE)[0] for _ in range(tagged.KEPT_PARTS + 5)]
    assert ("", [LARGE]) == read(*broken, *tagged.lines(LARGE))
