"""Selects the mechanism for limits: the strongest one that works when tried; a weak one is reported to the user.

``FLYTE_NOTEBOOK_LIMITER=cgroup_v2|cgroup_v1|watchdog`` forces one, for tests and bug reports; then it is an error if
this mechanism does not work, and no weaker one is used.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from flyte_notebook.limiters.base import LimiterUnavailableError
from flyte_notebook.limiters.cgroup_v1 import CgroupV1
from flyte_notebook.limiters.cgroup_v2 import CgroupV2
from flyte_notebook.limiters.hints import hints, look_around
from flyte_notebook.limiters.leftovers import left_alone, sweep
from flyte_notebook.limiters.life import session_name
from flyte_notebook.limiters.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import Limiter

__all__ = ["FORCE_VARIABLE", "choose", "left_alone", "session_name", "sweep"]

FORCE_VARIABLE = "FLYTE_NOTEBOOK_LIMITER"
MECHANISMS: dict[str, Callable[[str], CgroupV2 | CgroupV1 | Watchdog]] = {
    "cgroup_v2": CgroupV2,
    "cgroup_v1": CgroupV1,
    "watchdog": Watchdog,
}
"""Strongest first."""


def choose(forced: str | None = None, *, session: str) -> Limiter:
    """Return the strongest mechanism that works here, after trying it; its enforcement has hints about missing limits.

    ``forced``, or else the environment variable ``FLYTE_NOTEBOOK_LIMITER``, names the only one to try. Raises
    ValueError for an unknown name, and `LimiterUnavailableError` when no mechanism (or not the forced one) works. The
    caller closes the limiter.
    """
    forced = forced or os.environ.get(FORCE_VARIABLE) or None
    if forced is not None and forced not in MECHANISMS:
        raise ValueError(f"{FORCE_VARIABLE}={forced}: it may be {', '.join(MECHANISMS)}")
    refusals = []
    for name in MECHANISMS if forced is None else (forced,):
        tried = _try(name, session)
        if not isinstance(tried, str):
            found = hints(tried.enforcement, look_around()) if forced is None else ()
            tried.enforcement = replace(tried.enforcement, hints=found)
            return tried
        refusals.append(tried)
    raise LimiterUnavailableError(errno.ENOSYS, "; ".join(refusals))


def _try(name: str, session: str) -> CgroupV2 | CgroupV1 | Watchdog | str:
    """Return the limiter, or the reason why there is none."""
    try:
        return MECHANISMS[name](session)
    except LimiterUnavailableError as refused:
        return refused.strerror or str(refused)
