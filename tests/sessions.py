"""An open session for the tests of one module."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import cloudpickle
import flyte
from bounds import under_load

import flyte_notebook as fn
from flyte_notebook.engine import link
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import pytest

    from flyte_notebook.sdk.session import Session


@contextmanager
def opened_for(module: ModuleType) -> Iterator[Session]:
    """Open the session, and close it at the end; the tasks of the module travel by value."""
    cloudpickle.register_pickle_by_value(module)
    flyte.init()
    with fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven(under_load(60))
        yield session
    cloudpickle.unregister_pickle_by_value(module)


def give_supervisors(patch: pytest.MonkeyPatch, **settings: float) -> None:
    """Start supervisors with other bounds: ``spares__IDLE_S=1.0`` is ``IDLE_S`` of ``worker.process.spares``."""
    for name, value in settings.items():
        module, _, bound = name.partition("__")
        its = f"flyte_notebook.worker.process.{module}"
        setting = f"import {its} as its; assert its.{bound}; its.{bound} = {value!r}; main("
        patch.setattr(link, "_BOOT", link._BOOT.replace("main(", setting))
