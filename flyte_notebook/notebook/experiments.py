"""Experiments of a notebook: ``%flyte fit`` of the last run or a task, and a cell across limits and values."""

from __future__ import annotations

import inspect
import io
import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from flyte_notebook.core.units import UnitError
from flyte_notebook.experiments.sweeping import SweepError
from flyte_notebook.notebook.options import MAGIC
from flyte_notebook.sdk import settings
from flyte_notebook.sdk.fit import FitError, Fitting
from flyte_notebook.sdk.repeats import InputsGoneError, Repeat
from flyte_notebook.sdk.sweep import Sweeping, check_input, planned
from flyte_notebook.sdk.types import type_of
from flyte_notebook.views.experiments import fit as fit_view
from flyte_notebook.views.experiments import sweep as sweep_view
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.history import Run
    from flyte_notebook.notebook.options import CellOptions
    from flyte_notebook.sdk.celltask import CellParts, CellTask
    from flyte_notebook.sdk.session import Session
    from flyte_notebook.sdk.trials import Trial

    Read = Callable[[Mapping[str, Any]], tuple[CellTask, CellParts]]
    """Reads the cell with these variables besides those of the notebook."""

FIT = "%flyte fit"
HOW = f"name a task and its inputs, as in {FIT} oomer x=5"


def fit_again(line: str, namespace: Mapping[str, Any], session: Session) -> fit_view.ShownFit:
    """Fit the task named in ``line``, else the last run of this kernel. Raises UsageError, and the task's exception."""
    task, inputs = _named(line, namespace) if line else _last(namespace, session)
    try:
        search = Fitting(session, task, lambda run, task, trial: session.run(run, task, (), inputs, trial=trial))
        return fit_view.shown(search.run_and_show(fit_view.fit_bundle))
    except (FitError, UnitError) as error:
        raise UsageError(f"{FIT}: {error}") from None


def _named(line: str, namespace: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a task of the notebook and its inputs: ``x=5`` as Python, inputs that are not given by their names."""
    try:
        name, *words = shlex.split(line, posix=False)
    except ValueError:
        raise UsageError(f"{FIT}: a quotation mark is not closed; {HOW}") from None
    task = namespace.get(name)
    if not settings.is_task(task):
        what = f"is of type {type(task).__name__}, no Flyte task" if name in namespace else "does not exist"
        raise UsageError(f"{FIT}: `{name}` {what}; {HOW}")
    given: dict[str, Any] = {}
    for word in words:
        key, equals, expression = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{FIT}: {word!r} is no input; {HOW}")
        try:
            given[key] = eval(expression, dict(namespace))  # noqa: S307 - the user's own words, in the user's own kernel
        except Exception as error:  # noqa: BLE001 - the user's expression may raise any error
            raise UsageError(f"{FIT}: {key}={expression}: {type(error).__name__}: {error}") from None
    return task, {**_by_name(task, namespace, given), **given}


def _last(namespace: Mapping[str, Any], session: Session) -> tuple[Any, dict[str, Any]]:
    """Return the task of the last run and its inputs; those of a cell also by their names."""
    run = next((run for run in reversed(list(session.history)) if run.actions and not run.of_experiment), None)
    if run is None:
        raise UsageError(f"{FIT}: there is no run to fit; run a %%flyte_task cell first, or {HOW}")
    repeat = _repeat(run, session)
    if repeat is None:
        raise UsageError(f"{FIT}: what the last run was given is not kept; {HOW}")
    try:
        return repeat.task, repeat.arguments()
    except InputsGoneError:
        if not run.of_cell:
            raise UsageError(f"{FIT}: the inputs of the last run are not kept; {HOW}") from None
    return repeat.task, _by_name(repeat.task, namespace, {})


def _repeat(run: Run, session: Session) -> Repeat | None:
    passed = session.last_passed
    if passed is not None and passed.run == run.name:
        return Repeat(io.BytesIO(passed.payload)) if passed.payload else None
    attempts = run.actions[0].attempts
    try:
        return session.repeats.find(attempts[-1].worker) if attempts else None
    except InputsGoneError:
        return None


def _by_name(task: Any, namespace: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that are neither given nor have a default, from the notebook's variables."""
    inputs = task.native_interface.inputs
    unknown = next((name for name in given if name not in inputs), None)
    if unknown is not None:
        takes = ", ".join(inputs) or "nothing"
        raise UsageError(f"{FIT}: {task.short_name} has no input `{unknown}`; it takes {takes}")
    needed = [name for name, (_, default) in inputs.items() if name not in given and default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in namespace]
    if missing:
        raise UsageError(f"{FIT}: the notebook has no `{missing[0]}`; write {FIT} NAME {missing[0]}=...")
    return {name: namespace[name] for name in needed}


class CellSweep:
    """``--memory 128Mi:1Gi:8`` and ``--sweep x=1,2,4``: the sweep of one cell.

    Everything that can be wrong is said, as UsageError, when it is made.
    """

    def __init__(self, session: Session, said: CellOptions, read: Read) -> None:
        self._over = said.over
        self._by_type: dict[Any, tuple[CellTask, CellParts]] = {}
        first = {} if said.over is None else {said.over.name: said.over.values[0]}
        self.task, parts = read(first)
        try:
            if said.over is not None:
                check_input(said.over, list(parts.inputs), "the cell", "--sweep")
        except SweepError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        for value in (None,) if said.over is None else said.over.values:
            if self._kind(value) not in self._by_type:
                given = {} if said.over is None else {said.over.name: value}
                self._by_type[self._kind(value)] = read(given)
        try:
            self._sweeping = Sweeping(session, self.task, planned(said.memory_range, said.over), self._call)
        except SweepError as error:
            raise UsageError(f"{MAGIC}: --memory: {error}") from None
        if not said.yes:
            try:
                self._sweeping.ask("--yes")
            except SweepError as error:
                raise UsageError(f"{MAGIC}: {error}") from None
        self._session = session

    @property
    def name(self) -> str:
        """The name of the sweep in the session while it runs."""
        return self._sweeping.name

    def run(self) -> sweep_view.ShownSweep:
        """Run it and return the result; if it ends early, show the partial results, and raise."""
        try:
            return sweep_view.shown(self._sweeping.run_and_show(sweep_view.sweep_bundle))
        except PicklingProblem as problem:
            raise UsageError(f"{MAGIC}: {problem}; make it in the cell, or leave it out with --inputs") from None

    def _kind(self, value: Any) -> Any:
        """Return the type that a task has for a value: values of one type share a task."""
        return None if self._over is None else type_of(self._over.name, value)

    async def _call(self, run: Run, value: Any, trial: Trial) -> None:
        task, parts = self._by_type[self._kind(value)]
        inputs = dict(parts.inputs) if self._over is None else {**parts.inputs, self._over.name: value}
        await self._session.run_point(run, trial.overridden(task), tuple(inputs.values()), {}, trial=trial)
