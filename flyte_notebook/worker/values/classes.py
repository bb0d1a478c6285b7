"""Loads classes of a notebook from a pickle: classes that exist already are kept unchanged, or renewed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

HOOK = "__init_subclass__"


class KnownClasses:
    """The classes that existed before they were loaded.

    Separate from the unpickler, whose memo keeps the functions made here: else there would be a reference cycle, and
    all loaded objects would stay in memory until the next full collection.
    """

    def __init__(self) -> None:
        self.renew = False
        self._known: set[int] = set()

    def noting_known(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``make``, which records each class that it found instead of making it."""
        tracked = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {})

        def make_or_find(first: Any, name: str, *arguments: Any) -> Any:
            before = tracked.get(arguments[-2])  # the last two arguments of both: the tracker's id, and an unused one
            # The SDK recognises its enum of a `Literal` by the identity of its name.
            with _made_elsewhere(arguments[0]):
                result = make(first, sys.intern(name), *arguments)
            if result is before:
                self._known.add(id(result))
            return result

        return make_or_find

    def skipping_known(self, set_state: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``set_state``, which does not change known classes unless they have to be renewed."""

        def set_state_if_new(obj: Any, state: Any) -> Any:
            if id(obj) not in self._known:
                return set_state(obj, state)
            if not self.renew:
                return obj
            for name in [name for name in vars(obj) if name not in state[0] and not name.startswith("__")]:
                delattr(obj, name)
            return set_state(obj, state)

        return set_state_if_new


@contextlib.contextmanager
def _made_elsewhere(bases: Any) -> Iterator[None]:
    """Make a subclass of notebook classes without calling their ``__init_subclass__``: this happened at its definition.

    Its effects are part of the pickle. The method of a library's class is called, as it may register the class.
    """
    kinds = {kind for base in bases if isinstance(base, type) for kind in base.__mro__}
    hooks = [(kind, vars(kind)[HOOK]) for kind in kinds if kind.__module__ == "__main__" and HOOK in vars(kind)]
    for kind, _ in hooks:
        setattr(kind, HOOK, classmethod(lambda _cls, **_options: None))
    try:
        yield
    finally:
        for kind, hook in hooks:
            setattr(kind, HOOK, hook)
