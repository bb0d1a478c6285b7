"""Enforced runs in this process, and one real kernel for a module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sessions import opened_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

sys.path.append(str(Path(__file__).resolve().parent.parent / "notebook"))  # the kernels that tests there use


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Return the open session; the tasks of the module travel by value."""
    with opened_for(request.module) as opened:
        yield opened
