"""IPython inside a worker, loaded only when the cell needs it.

IPython costs a worker about 8 MiB, which count against the task's limit, and most cells never use it. So ``display``
and ``get_ipython`` start as small functions that load it on first use, and an import hook sets the same shell up when
user code, or a library such as matplotlib's inline backend, imports IPython by itself: without a shell IPython's
``display`` would only print.

The shell is IPython's own, without the parts for a person at a keyboard: no history, no profile directory, and in the
user's namespace only ``__builtin__``, and ``_dh``, ``_ih``, ``_oh``, which its magics read. Displayed output is sent
through the worker's channel (`flyte_notebook.worker.process.context.publish`); printed output, also of ``!commands``,
goes to the worker's standard output. This module itself imports no large library.
"""

from __future__ import annotations

import base64
import builtins
import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from flyte_notebook.cells import widgets_in_worker
from flyte_notebook.core.reliance import Reliance
from flyte_notebook.worker.process import context
from flyte_notebook.worker.process.after_import import call_after_import

INLINE_BACKEND = "matplotlib_inline.backend_inline"
_DEEPEST = 64
_RESULTS = ("_", "__", "___")

RELIES = Reliance(
    key="IPython in a task",
    library="ipython",
    behaviour="its shell can be made without keyboard, history and profile, by overriding five methods",
    lost="`display`, figures, magics and `!` commands in tasks",
    where="first use",
)

_lock = threading.RLock()
_shell: Any = None
_starting = False


def install_lazily() -> None:
    """Give this process ``display`` and its ``__main__`` ``get_ipython``, without loading IPython yet. Idempotent.

    ``get_ipython`` is no builtin before IPython is loaded: libraries (rich, pandas) call it to find out whether they
    run in IPython, and would load it.
    """
    if "IPython" in sys.modules:
        start()
        return
    builtins.display = _display  # type: ignore[attr-defined]  # IPython adds this builtin too
    sys.modules["__main__"].__dict__["get_ipython"] = start
    call_after_import("IPython", start)
    widgets_in_worker.install_lazily()


def start() -> Any:
    """Return the worker's shell; load IPython and make it if there is none yet. Serves as ``get_ipython``.

    Raises RuntimeError if this version of IPython cannot be used in this way.
    """
    try:
        return _started()
    except Exception as error:
        context.lose(RELIES, error)
        message = (
            f"this IPython cannot be used in a task, where there is no display and no magic; print() works: {error}"
        )
        raise RuntimeError(message) from error


def _started() -> Any:
    global _shell, _starting  # noqa: PLW0603 - one process, one shell
    if _shell is None:
        # Outside of our lock: a thread that imports IPython holds the import lock when the hook takes ours.
        import IPython  # noqa: F401, PLC0415 - the import makes the shell, by the hook below
    with _lock:
        if _shell is None and not _starting:
            _starting = True
            try:
                _shell = _make_shell()
            finally:
                _starting = False
        return _shell


def finish_cell() -> None:
    """Show open figures and run the functions registered for the end of a cell.

    Call it once, after the last line; for a cell before its outputs are pickled: an open figure would be shown again.
    """
    if _shell is not None:
        _shell.events.trigger("post_execute")
    inline = sys.modules.get(INLINE_BACKEND)
    if inline is not None:
        inline.flush_figures()


def forbid_prompts() -> None:
    """Let ``input()``, ``getpass()`` and ``breakpoint()`` raise a clear error: a worker cannot ask the user."""
    import getpass  # noqa: PLC0415 - loaded here, so that only workers load it

    builtins.input = _no_prompt("input()", "Ask in a normal cell; the task receives the variable.")
    getpass.getpass = _no_prompt("getpass()", "Set it in os.environ in a normal cell; the task sees it.")
    sys.breakpointhook = _no_prompt("breakpoint()", "To debug the cell, run it without %%flyte_task.")


def _no_prompt(what: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: object, **_options: object) -> NoReturn:
        raise RuntimeError(f"{what} doesn't work inside a task. {instead}")

    return refuse


def _display(*objects: Any, **options: Any) -> Any:
    """Display objects in the cell, as ``IPython.display.display``; loads IPython."""
    start()
    from IPython.display import display  # noqa: PLC0415 - 8 MiB, for cells that display only

    return display(*objects, **options)  # type: ignore[no-untyped-call]  # IPython's is not typed


def _make_shell() -> Any:
    from traitlets.config import Config  # noqa: PLC0415 - comes with IPython

    settings = Config()
    settings.HistoryManager.enabled = False  # no database, no thread that writes it
    settings.InteractiveShell.cache_size = 0  # Out[n] would keep every displayed object in memory
    main = sys.modules["__main__"]
    results = {name: main.__dict__[name] for name in _RESULTS if name in main.__dict__}
    # Not where other users may write: IPython imports extensions from there, and loads objects from a database.
    directory = context.directory
    shell = _shell_class().instance(
        config=settings,
        ipython_dir=directory,
        profile_dir=_profile_class()(location=directory),
        user_module=main,
        user_ns=main.__dict__,
    )
    for name in _RESULTS:  # IPython begins them as empty texts
        main.__dict__.pop(name, None)
    main.__dict__.update(results)
    if context.formats:
        from flyte_notebook.cells import formats  # noqa: PLC0415 - only if the notebook has its own formats

        formats.make(shell, context.formats)
    builtins.get_ipython = start  # type: ignore[attr-defined]  # the shell itself sets it only while it runs a cell
    return shell


def _profile_class() -> Any:
    from IPython.core.profiledir import ProfileDir  # noqa: PLC0415 - 8 MiB, for cells that need it only

    class NoProfile(ProfileDir):
        """A profile that makes no directories."""

        def check_dirs(self) -> None:
            """Do not change the file system."""

        check_log_dir = check_startup_dir = check_security_dir = check_pid_dir = check_static_dir = (
            lambda _self, _change=None: None
        )

    return NoProfile


def _publisher_class() -> Any:
    from IPython.core.displaypub import DisplayPublisher  # noqa: PLC0415 - 8 MiB, for cells that need it only

    class ChannelPublisher(DisplayPublisher):
        """Sends displayed output through the worker's channel."""

        def publish(  # type: ignore[override]  # without the parameter that IPython deprecated
            self,
            data: dict[str, Any],
            metadata: dict[str, Any] | None = None,
            *,
            transient: dict[str, Any] | None = None,
            update: bool = False,
            **_options: object,
        ) -> None:
            """Display a mime bundle."""
            data, widget = widgets_in_worker.as_far_as_shown(data)
            message = {"data": data, "metadata": metadata or {}, "transient": transient or {}, "update": update}
            _publish(message | widget)

        def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - IPython's signature
            """Clear the cell's output so far."""
            _publish({"clear": wait})

    return ChannelPublisher


def _shell_class() -> Any:
    import subprocess  # noqa: PLC0415 - only with IPython

    from IPython.core.interactiveshell import InteractiveShell  # noqa: PLC0415 - 8 MiB, for cells that need it only

    class WorkerShell(InteractiveShell):
        """IPython's shell without keyboard, history or profile."""

        def system(self, cmd: str) -> None:
            """Run a command with the descriptors of this process, as it writes; its status is in ``_exit_code``."""
            _flush()
            shell = os.environ.get("SHELL")
            command = self.var_expand(cmd, depth=1)  # type: ignore[no-untyped-call]  # IPython's is not typed
            status = subprocess.call(command, shell=True, executable=shell)  # noqa: S602 - the meaning of !command
            self.user_ns["_exit_code"] = 128 - status if status > 128 else status  # noqa: PLR2004 - as IPython: -signal

        def init_virtualenv(self) -> None:
            """Do not change the notebook's ``sys.path``."""

        def init_display_pub(self) -> None:
            """Display through the worker's channel."""
            self.display_pub = _publisher_class()(parent=self, shell=self)

        def init_user_ns(self) -> None:
            """Add only the names that magics read to the user's namespace, hidden from ``%who``."""
            history: Any = self.history_manager
            ours = {"_ih": history.input_hist_parsed, "_oh": history.output_hist, "_dh": history.dir_hist}
            self.user_ns_hidden.update(ours)
            self.user_ns.update(ours)

        def enable_gui(self, gui: str | None = None) -> None:
            """Refuse windows: there is no event loop for them in a worker."""
            if gui not in {None, "inline"}:
                raise RuntimeError(f"a task cannot open {gui} windows; use %matplotlib inline")

    return WorkerShell


def _publish(message: dict[str, Any]) -> None:
    _flush()
    context.publish(plain(message))


def _flush() -> None:
    """Flush printed output, so that it is shown above the following output."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` in a form for JSON: bytes as base64, other objects and too deep nesting as their ``repr``."""
    if depth < _DEEPEST:
        if hasattr(value, "tolist"):  # numbers and arrays of numpy
            return plain(value.tolist(), depth + 1)
        if isinstance(value, dict):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if value is None or isinstance(value, (bool, str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)
