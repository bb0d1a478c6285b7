"""The states of ``random`` and ``numpy.random``, which a task cell in the foreground continues as a plain cell does.

They are sent to the first attempt of a ``%%flyte_task`` cell, and back when it has passed. All other runs (actions,
retries, in the background, on a cluster) begin with fresh entropy, as on a cluster.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook.worker.process.after_import import call_after_import, loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    States = Mapping[str, bytes]

MODULES = ("random", "numpy.random")

given: States | None = None
"""The initial states for the cell of this worker; ``None`` where it begins with fresh entropy."""


def read() -> States:
    """Return the state of each generator that is loaded here, pickled, by the name of its module."""
    found = {}
    for name in MODULES:
        if loaded(name):
            with contextlib.suppress(AttributeError):  # another thread is importing it
                found[name] = pickle.dumps(_state(name), pickle.HIGHEST_PROTOCOL)
    return found


def write(states: States) -> None:
    """Continue from these states, if the module is loaded, or as soon as it is."""
    for name, data in states.items():
        call_after_import(name, functools.partial(_go_on, name, data))


def changed(states: States) -> States:
    """Return the states that have changed."""
    return {name: data for name, data in read().items() if data != states.get(name)}


def _state(name: str) -> Any:
    module: Any = sys.modules[name]
    return module.getstate() if name == "random" else module.get_state()


def _go_on(name: str, data: bytes) -> None:
    state = pickle.loads(data)  # noqa: S301 - from the notebook's kernel, or its worker
    module: Any = sys.modules[name]
    (module.setstate if name == "random" else module.set_state)(state)
