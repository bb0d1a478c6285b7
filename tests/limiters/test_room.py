"""The limit that a session's tasks have together, where a group above is limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flyte_notebook.limiters import machine
from flyte_notebook.limiters.session_limits import SPARE_BYTES, STEP_BYTES, Room

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Return a directory with the two files of a group that uses 100 MiB."""
    (tmp_path / "usage").write_text(f"{100 * MIB}\n")
    (tmp_path / "limit").write_text("max\n")
    return tmp_path


def keep(group: Path, room: Room, monkeypatch: pytest.MonkeyPatch, left_bytes: int | None) -> str:
    monkeypatch.setattr(machine, "left_above_bytes", lambda: left_bytes)
    room.keep()
    return (group / "limit").read_text().strip()


@pytest.fixture
def room(group: Path) -> Room:
    """Return the room of that group."""
    return Room(str(group / "usage"), str(group / "limit"))


def test_the_limit_is_what_is_used_and_what_is_left_less_a_spare(
    group: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows what is left, up and down, and never goes below what the tasks use now."""
    assert str(300 * MIB - SPARE_BYTES) == keep(group, room, monkeypatch, 200 * MIB)
    assert str(600 * MIB - SPARE_BYTES) == keep(group, room, monkeypatch, 500 * MIB)
    assert str(100 * MIB) == keep(group, room, monkeypatch, 0)


@pytest.mark.parametrize(("used_mib", "left_mib"), [(150, 200), (60, 200), (150, 20)])
def test_what_changes_between_two_readings_is_not_counted_twice(
    group: Path, room: Room, monkeypatch: pytest.MonkeyPatch, used_mib: int, left_mib: int
) -> None:
    """Memory that tasks take or free while one reads is not used and left at a time; nor is the limit below usage."""

    def left_and_change() -> int:
        (group / "usage").write_text(f"{used_mib * MIB}\n")
        return left_mib * MIB

    monkeypatch.setattr(machine, "left_above_bytes", left_and_change)
    room.keep()
    limit_bytes = int((group / "limit").read_text())
    assert max(used_mib, min(100, used_mib) + left_mib - (SPARE_BYTES >> 20)) == limit_bytes >> 20


def test_a_small_change_is_not_written(group: Path, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a step is not worth a write."""
    first = keep(group, room, monkeypatch, 200 * MIB)
    assert first == keep(group, room, monkeypatch, 200 * MIB + STEP_BYTES - 1)
    assert first != keep(group, room, monkeypatch, 200 * MIB + STEP_BYTES)


def test_without_a_limited_group_above_nothing_is_set(group: Path, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that nobody limits the session's group has no limit of its own."""
    assert "max" == keep(group, room, monkeypatch, None)


def test_a_refused_write_is_tried_again(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses a limit, the next call sets it."""
    room = Room(str(group / "usage"), str(group / "below" / "limit"))
    monkeypatch.setattr(machine, "left_above_bytes", lambda: 200 * MIB)
    room.keep()
    (group / "below").mkdir()
    (group / "below" / "limit").touch()
    room.keep()
    assert str(300 * MIB - SPARE_BYTES) == (group / "below" / "limit").read_text()
