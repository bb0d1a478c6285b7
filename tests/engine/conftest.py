"""Enforced runs of real tasks, defined in the test modules and shipped by value, as those of a notebook are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sessions import opened_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Return the open session; the tasks of the module travel by value."""
    with opened_for(request.module) as opened:
        yield opened
