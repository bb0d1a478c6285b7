"""The notebook's event loop: polling errors silenced on it, and ``asyncio.run`` allowed inside a cell.

The SDK's polling may deliver a BlockingIOError to the caller's loop, where it is harmless but prints a page of text.
The SDK's own remedy (``flyte.errors.silence_polling_error``) is set on a loop by the first ``.aio()`` call, and
replaces any other handler. `PollingErrorHandler` does the same without losing the handler, with asyncio's public calls
only; a patched ``set_exception_handler`` would also catch handlers that users set, and break on loops written in C. It
stays set by two means:

- ``claim``, given by the caller that knows the SDK, tells the SDK that this loop has a handler, so that it sets none;
- `PollingErrorHandler.check`, cheap enough for every cell and every run, checks the handler and sets ours again, if an
  SDK without such a switch has replaced it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from flyte_notebook.errors import silence_grpc_polling_error


class PollingErrorHandler:
    """Drops and counts every BlockingIOError that reaches the loop; passes all other errors to the previous handler.

    ``silenced`` counts the dropped errors. ``claim(loop)`` keeps the SDK from setting its own handler, and returns the
    function that undoes this. All methods are for the loop's own thread. One object serves one loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        claim: Callable[[asyncio.AbstractEventLoop], Callable[[], None]] | None = None,
    ) -> None:
        self.silenced = 0
        self.loop = loop
        self._claim = claim
        self._unclaim: Callable[[], None] | None = None
        self._before: Any = None
        self._installed = False
        self._ours: Any = self._handle  # one bound method, so that `is` recognises it

    @property
    def in_force(self) -> bool:
        """Whether the loop calls this handler now."""
        return self.loop.get_exception_handler() is self._ours

    def install(self) -> None:
        """Set the handler. Idempotent."""
        if self._installed:
            return
        self._before = self.loop.get_exception_handler()
        if self._claim is not None:
            self._unclaim = self._claim(self.loop)
        self.loop.set_exception_handler(self._ours)
        self._installed = True

    def check(self) -> bool:
        """Set the handler again if another replaced it; return whether this was necessary.

        A user's handler that replaced ours is called for all errors except polling errors; the SDK's own is dropped, as
        ours does the same and passes on the rest.
        """
        if not self._installed or self.in_force:
            return False
        found = self.loop.get_exception_handler()
        if not _is_sdk_handler(found):
            self._before = found
        self.loop.set_exception_handler(self._ours)
        return True

    def uninstall(self) -> None:
        """Restore the previous handler, unless a handler that is not the SDK's was set since. Idempotent."""
        if not self._installed:
            return
        self._installed = False
        if self._unclaim is not None:
            self._unclaim()
            self._unclaim = None
        if self.in_force or _is_sdk_handler(self.loop.get_exception_handler()):
            self.loop.set_exception_handler(self._before)
        self._before = None

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), BlockingIOError):
            self.silenced += 1
        elif self._before is not None:
            self._before(loop, context)
        else:
            loop.default_exception_handler(context)


def _is_sdk_handler(handler: object) -> bool:
    return handler is silence_grpc_polling_error


def apply_nest_asyncio2(loop: asyncio.AbstractEventLoop | None = None) -> str:
    """Let ``asyncio.run(main())`` and ``loop.run_until_complete(...)`` work inside a cell; return a sentence about it.

    ``loop`` is the running loop when ``None``. The patch changes the asyncio module of this process and cannot be
    undone.
    """
    already = hasattr(asyncio, "_nest_patched")
    import nest_asyncio2  # noqa: PLC0415 - it patches the process: loaded only if this is wanted

    nest_asyncio2.apply(loop)
    if already:
        return "asyncio is patched by nest-asyncio already; it stays patched until the kernel restarts."
    return "nest-asyncio2 patched asyncio, so that asyncio.run(...) works in a cell; only a kernel restart undoes that."
