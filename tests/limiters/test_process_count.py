"""How many processes a session and an attempt may have, from what is left above them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flyte_notebook.limiters import session_limits

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("above", "own", "expected"),
    [
        (("1000", "200"), ("max", "10"), (400, 200)),
        (("1000", "200"), ("500", "100"), (200, 100)),
        (("max", "5"), ("40", "30"), (128, 64)),
    ],
    ids=["a group above is limited", "the narrowest counts", "almost nothing is left"],
)
def test_half_goes_to_the_session_and_half_of_that_to_each_attempt(
    tmp_path: Path, above: tuple[str, str], own: tuple[str, str], expected: tuple[int, int]
) -> None:
    """What the narrowest group on the way up has left is shared out; an interpreter with its threads always fits."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for place, (most, current) in ((tmp_path, above), (inner, own)):
        (place / "pids.max").write_text(most)
        (place / "pids.current").write_text(current)
    assert expected == session_limits.shares(str(inner), str(tmp_path))


def test_without_a_limit_above_the_machine_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of any size an attempt has 4,096 at most."""
    monkeypatch.setattr(session_limits, "_machine_left", lambda: 4_000_000)
    assert (2_000_000, 4096) == session_limits.shares(str(tmp_path), str(tmp_path))


@pytest.mark.linux
def test_this_machine_takes_some_more() -> None:
    """What the kernel says can be read, and this test runs."""
    assert session_limits._machine_left() > 0
