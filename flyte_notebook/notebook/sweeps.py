"""``--memory 128Mi:1Gi:8`` and ``--sweep x=1,2,4``: one cell, run across limits and values of an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from flyte_notebook.experiments.sweeping import SweepError
from flyte_notebook.notebook.options import MAGIC
from flyte_notebook.sdk.sweep import Sweeping, check_input, planned
from flyte_notebook.sdk.types import type_of
from flyte_notebook.views.experiments.sweep import ShownSweep, shown, sweep_bundle
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


class CellSweep:
    """The sweep of one cell. Everything that can be wrong is said, as UsageError, when it is made."""

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
        """The name by which the session knows the sweep while it runs."""
        return self._sweeping.name

    def run(self) -> ShownSweep:
        """Run it and return what was found; when it ends before its end, show what is known, and raise."""
        try:
            return shown(self._sweeping.run_and_show(sweep_bundle))
        except PicklingProblem as problem:
            raise UsageError(f"{MAGIC}: {problem}; make it in the cell, or leave it out with --inputs") from None

    def _kind(self, value: Any) -> Any:
        """Return the type that a task has for a value: values of one type share a task."""
        return None if self._over is None else type_of(self._over.name, value)

    async def _call(self, run: Run, value: Any, trial: Trial) -> None:
        task, parts = self._by_type[self._kind(value)]
        inputs = dict(parts.inputs) if self._over is None else {**parts.inputs, self._over.name: value}
        await self._session.run_point(run, trial.overridden(task), tuple(inputs.values()), {}, trial=trial)
