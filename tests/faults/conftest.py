"""A session for the tests of faults that can be made from inside; the others run programs of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cloudpickle
import flyte
import pytest

import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Return the open session; the tasks of the module travel by value."""
    cloudpickle.register_pickle_by_value(request.module)
    flyte.init()
    with fn.enable():
        opened = enforcement.current()
        assert opened is not None
        opened.engine.wait_until_proven()
        yield opened
    cloudpickle.unregister_pickle_by_value(request.module)
