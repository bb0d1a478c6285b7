"""What the tests of the limiters share: a session of their own, and children that never outlive a test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from limited import Children

from flyte_notebook.limiters.life import session_name

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def session() -> str:
    """Return the name of a session of this process."""
    return session_name(os.getpid())


@pytest.fixture
def children(session: str) -> Iterator[Children]:
    """Give a way to start programs in groups; kill what a failed test left."""
    started = Children(session)
    yield started
    started.close()
