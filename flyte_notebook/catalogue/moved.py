"""Names of the SDK that it has no more under the name that its published guide and reference use."""

from __future__ import annotations

import re
from typing import Final

MOVED: Final = {
    "flyte.init_auto_from_config": "flyte.init_from_config",
    "flyte.errors.ReferenceTaskError": "flyte.errors.RemoteTaskUsageError",
    "flyte.errors.RunAbortedError": "flyte.errors.ActionAbortedError",
}
"""Of the guide and the reference for 2.0.0b33, with the names in 2.12."""

_MISSING: Final = (
    re.compile(r"module '(?P<module>flyte(?:\.\w+)*)' has no attribute '(?P<name>\w+)'"),
    re.compile(r"cannot import name '(?P<name>\w+)' from '(?P<module>flyte(?:\.\w+)*)'"),
)


def moved_name(error: BaseException) -> str | None:
    """Return today's name if an error says that the SDK lacks one of `MOVED`; ``None`` for every other error.

    That is an AttributeError or an ImportError, or one from a task: a RuntimeUserError with that code.
    """
    codes = {type(error).__name__, getattr(error, "code", None)}
    if not codes & {"AttributeError", "ImportError"}:
        return None
    found = next((match for pattern in _MISSING if (match := pattern.search(str(error)))), None)
    was = "" if found is None else f"{found['module']}.{found['name']}"
    return f"`{was}` is called `{MOVED[was]}` in today's SDK" if was in MOVED else None
