"""Run notebook cells and Flyte tasks as resource-limited processes; see why they fail.

In a notebook: ``%load_ext flyte_notebook``, then ``%%flyte_task NAME --memory 250Mi``. In a script or a test::

    import flyte_notebook as fn

    fn.enable()            # from here on every local flyte.run is enforced, task by task
    ...
    fn.disable()

Importing this package loads neither Flyte nor IPython.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook.history import draw_runs_with as _draw_runs_with

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike
    from pathlib import Path
    from types import ModuleType, TracebackType
    from typing import Literal

    from IPython.core.interactiveshell import InteractiveShell

    from flyte_notebook.capabilities import Doctor
    from flyte_notebook.catalogue import Explanation
    from flyte_notebook.core.outcome import Failure
    from flyte_notebook.core.trace import MemoryTrace
    from flyte_notebook.experiments.fitting import Fit
    from flyte_notebook.experiments.sweeping import Sweep
    from flyte_notebook.history import Action, Attempt, History, Run, Runs
    from flyte_notebook.sdk.escalation import RetryOnOom
    from flyte_notebook.views.experiments.comparison import Comparison

    errors: ModuleType
    runs: History
    last_run: Run | None
    last_failure: Failure | None
    last_fit: Fit | None
    last_sweep: Sweep | None

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Attempt",
    "Comparison",
    "Doctor",
    "Enforced",
    "Explanation",
    "Failure",
    "Fit",
    "MemoryTrace",
    "Run",
    "Runs",
    "Sweep",
    "compare",
    "disable",
    "doctor",
    "enable",
    "errors",
    "explain",
    "fit",
    "last_failure",
    "last_fit",
    "last_run",
    "last_sweep",
    "load",
    "load_ipython_extension",
    "retry_on_oom",
    "runs",
    "save",
    "sweep",
    "unload_ipython_extension",
]

_HOMES = {
    "Action": "flyte_notebook.history",
    "Attempt": "flyte_notebook.history",
    "Comparison": "flyte_notebook.views.experiments.comparison",
    "Doctor": "flyte_notebook.capabilities",
    "Explanation": "flyte_notebook.catalogue",
    "Failure": "flyte_notebook.core.outcome",
    "Fit": "flyte_notebook.experiments.fitting",
    "MemoryTrace": "flyte_notebook.core.trace",
    "Run": "flyte_notebook.history",
    "Runs": "flyte_notebook.history",
    "Sweep": "flyte_notebook.experiments.sweeping",
}


class Enforced:
    """The result of `enable`: used as a context manager, it disables at the end of the block."""

    def __enter__(self) -> Enforced:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        disable()


def enable(
    *,
    max_processes: int = 64,
    semantics: Literal["cluster", "reference"] | None = None,
    system_retries: int | None = None,
) -> Enforced:
    """Enforce declared limits in every local ``flyte.run`` of this process, each action in its own process.

    ``max_processes`` limits the tasks that run at one time; parents that wait for children do not count. ``semantics``
    selects the error classes of failures where the two differ: those that today's cluster raises (``"cluster"``, the
    default), or those of the published reference (``"reference"``). ``system_retries`` is how many times in a row a
    lost worker (a segfault, ``os._exit``, a kill from outside) is replaced without using up a retry of its task; the
    default is 0, as a repeated crash would repeat the task's side effects. When they are used up, the code of the
    ``RuntimeSystemError`` is ``MaxSystemFailuresExceeded``.

    Idempotent: while limits are enforced, only the last two are changed, where they are given. Usable as a context
    manager. Raises ``ValueError`` for invalid settings, and ``EngineError`` when this machine cannot start an isolated
    worker; then the SDK is not changed.
    """
    with _engine_begun():
        enforcement = importlib.import_module("flyte_notebook.sdk.enforcement")
        interrupts = importlib.import_module("flyte_notebook.notebook.interrupts")
        enforcement.check_settings(semantics=semantics, system_retries=system_retries)
        session = enforcement.current()
        if session is None:
            session = enforcement.open_session(max_processes=max_processes)
            session.on_close(interrupts.install_for_script(session.stop_all).uninstall)
            importlib.import_module("flyte_notebook.sdk.script_errors").install()
    enforcement.change_settings(session, semantics=semantics, system_retries=system_retries)
    return Enforced()


@contextlib.contextmanager
def _engine_begun() -> Iterator[None]:
    """Start the supervisor while the SDK is imported for the first time; a session opened in the block uses it."""
    ahead = importlib.import_module("flyte_notebook.sdk.ahead")
    if "flyte_notebook.sdk.enforcement" not in sys.modules:
        ahead.begin()
    try:
        yield
    finally:
        ahead.end_unused()


def disable() -> None:
    """Undo the changes of the SDK; wait until all our processes, control groups and files are removed. Idempotent."""
    importlib.import_module("flyte_notebook.sdk.enforcement").close_session()


def doctor() -> Doctor:
    """Return which limits are enforced on this machine, by which mechanism, how exactly, and how to get the others."""
    result: Doctor = importlib.import_module("flyte_notebook.capabilities").examine()
    return result


def explain(thing: object) -> Explanation:
    """Explain an error: what it means, when it is raised on a cluster and here, how to recover from it in code.

    ``thing`` is a class, an error, or a name such as ``"OOMError"`` or ``"OOMKilled"``; Python's own exceptions are
    explained too. The result is shown in a terminal and in a notebook. Raises LookupError for an unknown name, with the
    closest ones, and TypeError for anything that is not an error.
    """
    catalogue = importlib.import_module("flyte_notebook.catalogue")
    view = importlib.import_module("flyte_notebook.views.failures.explanation")
    result: Explanation = view.shown(catalogue.explain(thing))
    return result


class _FitCall:
    """Find the smallest memory limit that a task passes with these inputs, and a limit to keep.

    ``fit(task, x=5)`` takes the arguments of ``flyte.run(task, x=5)``, and blocks; ``await fit.aio(task, x=5)`` does
    not. The task and the tasks that it calls run completely a few times, without the cache and without retries: once
    with enough memory, which shows the peak, once just above the peak, and again only if that fails. Only the output of
    the first run is shown. The tolerance of limits is 5% or 8 MiB, whichever is more; the `Fit` has them, and can be
    displayed.

    Raises the task's error in the first run (it fails for another reason, or at any limit), and TypeError for anything
    that is not a task. An interrupt stops the search; the results so far are shown, and are in ``last_fit``.
    """

    def __call__(self, task: Any, /, *args: Any, **inputs: Any) -> Fit:  # noqa: ANN401 - any task, any inputs
        search = importlib.import_module("flyte_notebook.sdk.fit")
        view = importlib.import_module("flyte_notebook.views.experiments.fit")
        result: Fit = view.shown(search.fit(task, args, inputs, bundle=view.fit_bundle))
        return result

    async def aio(self, task: Any, /, *args: Any, **inputs: Any) -> Fit:  # noqa: ANN401 - any task, any inputs
        """As `fit`, awaited; cancelling it stops the search."""
        search = importlib.import_module("flyte_notebook.sdk.fit")
        view = importlib.import_module("flyte_notebook.views.experiments.fit")
        result: Fit = view.shown(await search.fit_aio(task, args, inputs, bundle=view.fit_bundle))
        return result


fit = _FitCall()


def compare(*things: Any, **named: Any) -> Comparison:  # noqa: ANN401 - runs, and parts of them
    """Draw runs in one chart, with a table of their durations, peaks, limits and outcomes.

    ``things`` are runs, actions, attempts or failures, also loaded ones (`load`), or collections of them.
    ``compare(before=run_a, after=run_b)`` names them. For a run with many actions the action with the highest peak is
    compared. The chart shows the last six. Raises TypeError for other objects, and ValueError if nothing is given.
    """
    result: Comparison = importlib.import_module("flyte_notebook.views.experiments.comparison").compared(things, named)
    return result


def save(run: Run, path: str | PathLike[str] | None = None) -> Path:
    """Save a run to a file for at most 500 runs and 24 MiB; the oldest are removed. Return the file.

    Without a path the file is in this user's cache (``$XDG_CACHE_HOME``, else ``~/.cache``), which is safe to delete.
    Runs are saved only by this call. It has facts: limits, memory over time, outcomes, and of a failure lines,
    traceback and last output; no input or output values, no environment, and no executable code. Lines of source
    contain their literals. Notebooks may save at the same time. Raises RuntimeError if the file cannot be written or is
    not of this package; its contents are then unchanged.
    """
    result: Path = importlib.import_module("flyte_notebook.storage").save(run, path)
    return result


def load(path: str | PathLike[str] | None = None) -> Runs:
    """Return the runs saved to a file, the newest last; ``load()["oomer"]`` is the last of that name or task.

    They can be drawn, compared and exported as any other run; they have no outputs and cannot be run again. Raises
    RuntimeError if the file is missing, damaged, or from a later version.
    """
    found = importlib.import_module("flyte_notebook.storage").load(path)
    result: Runs = importlib.import_module("flyte_notebook.views.history.saved").SavedRuns(found)
    return result


class _SweepCall:
    """Run a task across memory limits, values of an input, or both, and see where it passes and how long it takes.

    ``sweep(task, memory="128Mi:1Gi:8", x=5)`` runs it at eight limits, ``"128Mi:1Gi:8:log"`` at eight that grow by the
    same factor; ``over={"x": [1, 2, 4, 8]}``, or ``over="x=1,2,4,8"``, with these values of one input, at each limit or
    at the one that the task declares. Other arguments are those of ``flyte.run``. It blocks; ``await sweep.aio(...)``
    does not. Each point runs once, without the cache and without showing its output; as many run side by side as there
    are cores, if memory allows. Runs of a sweep are not kept in ``runs``; the `Sweep` has their points, and can be
    displayed.

    A failed point is a result, and does not raise. Raises ValueError, before anything runs, if the sweep is not
    possible; also for more than 100 runs without ``yes=True``, with the minimum time for them. Raises TypeError for
    anything that is not a task. An interrupt stops it; the measured points are shown, and are in ``last_sweep``.
    """

    def __call__(
        self,
        task: Any,  # noqa: ANN401 - any task
        /,
        *args: Any,  # noqa: ANN401 - any inputs
        memory: str | None = None,
        over: str | Mapping[str, Sequence[Any]] | None = None,
        yes: bool = False,
        **inputs: Any,  # noqa: ANN401 - any inputs
    ) -> Sweep:
        home, view = _sweep_rooms()
        asked = home.SweepRequest.by(task, args, inputs, memory=memory, over=over)
        result: Sweep = view.shown(home.sweep(asked, yes=yes, bundle=view.sweep_bundle))
        return result

    async def aio(
        self,
        task: Any,  # noqa: ANN401 - any task
        /,
        *args: Any,  # noqa: ANN401 - any inputs
        memory: str | None = None,
        over: str | Mapping[str, Sequence[Any]] | None = None,
        yes: bool = False,
        **inputs: Any,  # noqa: ANN401 - any inputs
    ) -> Sweep:
        """As `sweep`, awaited; cancelling it stops the sweep."""
        home, view = _sweep_rooms()
        asked = home.SweepRequest.by(task, args, inputs, memory=memory, over=over)
        result: Sweep = view.shown(await home.sweep_aio(asked, yes=yes, bundle=view.sweep_bundle))
        return result


def _sweep_rooms() -> tuple[Any, Any]:
    names = ("flyte_notebook.sdk.sweep", "flyte_notebook.views.experiments.sweep")
    return importlib.import_module(names[0]), importlib.import_module(names[1])


sweep = _SweepCall()


def retry_on_oom(
    task: Any,  # noqa: ANN401 - any task
    *,
    factor: float = 2,
    up_to: str | int = "4Gi",
    step: str | int | None = None,
) -> RetryOnOom:
    """Return a callable that works like ``task``, but runs it again with more memory after each kill for memory.

    ``await retry_on_oom(oomer)(x=5)`` calls the task as it is declared; after an OOMError it calls
    ``oomer.override(resources=...)`` with the memory limit multiplied by ``factor``, or ``step`` added, at most
    ``up_to``. Only the limit changes. The limit that passed is shown once, as the line of code to keep. It is a plain
    Flyte program: it works inside a task, here and on a cluster, whether limits are enforced or not; outside of a task
    each attempt is a separate run. ``flyte.run`` and ``flyte.map`` accept tasks only, and so not this callable.

    Only a kill for memory at the task's own limit is caught: no ``MemoryError``, no kill of a nested task, and no kill
    because the machine ran out of memory. When the last limit is too small, or is more than the machine has, the last
    OOMError is raised, with the limits that were tried. Raises ``TypeError`` for anything that is not a task, and
    ``ValueError`` for a task without a memory limit, for a limit that is not below ``up_to``, and for a limit that
    would not grow.
    """
    pure = importlib.import_module("flyte_notebook.experiments.escalation")
    growth = pure.growth_of(factor=factor, up_to=up_to, step=step)
    result: RetryOnOom = importlib.import_module("flyte_notebook.sdk.escalation").RetryOnOom(
        task, growth, _escalation_bundle
    )
    return result


def _escalation_bundle(*args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - as of the view, loaded only now
    bundle: dict[str, Any] = importlib.import_module("flyte_notebook.views.experiments.escalation").escalation_bundle(
        *args, **kwargs
    )
    return bundle


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Load the extension: ``%load_ext flyte_notebook``."""
    importlib.import_module("flyte_notebook.notebook.loading").load(shell, _engine_begun)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Unload the extension: ``%unload_ext flyte_notebook``."""
    importlib.import_module("flyte_notebook.notebook.extension").unload(shell)


def _figure_of(run: Run) -> Any:  # noqa: ANN401 - a matplotlib Figure; its library is loaded only now
    return importlib.import_module("flyte_notebook.views.charts.chart").run_figure(run)


_draw_runs_with(_figure_of)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - public names that are loaded when they are first used
    if name == "errors":
        return importlib.import_module("flyte_notebook.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in {"runs", "last_run", "last_failure"}:
        history = importlib.import_module("flyte_notebook.sdk.enforcement").history
        return history if name == "runs" else getattr(history, name)
    if name == "last_sweep":
        home, view = _sweep_rooms()
        return None if home.last is None else view.shown(home.last)
    if name == "last_fit":
        found = importlib.import_module("flyte_notebook.sdk.fit").last
        return None if found is None else importlib.import_module("flyte_notebook.views.experiments.fit").shown(found)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
