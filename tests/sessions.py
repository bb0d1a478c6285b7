"""An open session for the tests of one module."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import cloudpickle
import flyte
from bounds import bound_s

import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from flyte_notebook.sdk.session import Session


@contextmanager
def opened_for(module: ModuleType) -> Iterator[Session]:
    """Open the session, and close it at the end; the tasks of the module travel by value."""
    cloudpickle.register_pickle_by_value(module)
    flyte.init()
    with fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven(bound_s(60))
        yield session
    cloudpickle.unregister_pickle_by_value(module)
