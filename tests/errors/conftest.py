"""Enforced runs in this process, and one real kernel for a module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import flyte
import pytest

import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

sys.path.append(str(Path(__file__).resolve().parent.parent / "notebook"))  # the kernels that tests there use


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
