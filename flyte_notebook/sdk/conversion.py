"""How a cluster changes an error of the SDK between a task and its caller.

The pod writes it down and the caller reads it, both by the SDK's own conversion: ``convert_from_native_to_error``, then
``convert_error_to_native``. These convert a few classes; any other one arrives as a user, system or unknown error with
its code.
"""

from __future__ import annotations

from typing import Any

import flyte.errors
from flyte._internal.runtime import convert

_PLAIN = (flyte.errors.RuntimeSystemError, flyte.errors.RuntimeUnknownError, flyte.errors.RuntimeUserError)


def as_from_cluster(error: BaseException) -> Exception | None:
    """Return the error that a caller on a cluster gets for an error of a task; ``None`` if the class is the same.

    ``None`` also for classes outside of the SDK, for a class that the conversion handles, with any code, and if the
    conversion mistakes the code for another class.
    """
    kind = type(error)
    if kind.__module__ != flyte.errors.__name__ or not isinstance(error, Exception) or _is_known(kind):
        return None
    # As ``run_task`` does: it treats any class except these three as a user's own exception.
    sent = error if isinstance(error, _PLAIN) else flyte.errors.CustomError.from_exception(error)
    try:
        native: Any = convert.convert_error_to_native(convert.convert_from_native_to_error(sent))
    except Exception:  # noqa: BLE001 - a user's error may have no text, or one that is no UTF-8
        return None
    return native if type(native) in _PLAIN and type(native) is not kind else None


def _is_known(kind: type) -> bool:
    """Whether the conversion creates errors of this class, judged from its code."""
    families = [getattr(flyte.errors, name, None) for name in ("TaskTimeoutError", "AppleSiliconError")]
    return kind.__name__ in convert.convert_error_to_native.__code__.co_names or any(
        family is not None and issubclass(kind, family) for family in families
    )
