"""Runs one ``%%flyte_task`` cell, from its text to its outputs in the notebook."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from flyte_notebook.cells import generators
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_memory, quantity_memory, too_little
from flyte_notebook.errors import BaseRuntimeError, OOMError, RunAbortedError, UnschedulableError
from flyte_notebook.experiments.escalation import GrowthError
from flyte_notebook.experiments.fitting import would_do
from flyte_notebook.history import Cell
from flyte_notebook.limiters import machine
from flyte_notebook.notebook import liveline, output
from flyte_notebook.notebook.cell_source import CellSource
from flyte_notebook.notebook.experiments import CellSweep
from flyte_notebook.notebook.landing import land
from flyte_notebook.notebook.options import MAGIC
from flyte_notebook.sdk import celltask, enforcement
from flyte_notebook.sdk.escalation import OomEscalation
from flyte_notebook.sdk.failures_without_attempt import RefusedRunError, UnreadableOutputsError
from flyte_notebook.sdk.fit import FitError, Fitting
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.views.experiments.escalation import escalation_bundle
from flyte_notebook.views.experiments.fit import fit_bundle
from flyte_notebook.views.experiments.sweep import sweep_bundle
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.history import Run
    from flyte_notebook.notebook.background import BackgroundRun
    from flyte_notebook.notebook.cards import Cards
    from flyte_notebook.notebook.options import CellOptions
    from flyte_notebook.sdk.celltask import CellParts, CellTask
    from flyte_notebook.sdk.session import Session
    from flyte_notebook.sdk.trials import Trial

STOP_BOUND_S = 3.0

_lost = functools.cache(celltask.lost)
"""The same for all cells of this kernel."""


class CellRun:
    """Runs one cell as a task. Errors that can be known in advance are reported before it runs.

    ``interrupted``: it was stopped by an interrupt of the kernel.
    """

    def __init__(self, shell: Any, said: CellOptions, cell: str, cards: Cards, *, line: str) -> None:
        session = enforcement.current()
        if session is None:
            raise UsageError(f"{MAGIC}: limits are not enforced now; run %reload_ext flyte_notebook")
        lost = _lost()
        if lost:
            raise UsageError(f"{MAGIC}: {lost}")
        self._session: Session = session
        self._shell = shell
        self._said = said
        self._cell = cell
        self._cards = cards
        self._source = CellSource(shell, said, cell, line, self._note_once)
        self._sink: output.Sink | None = None
        self._running: Run | None = None
        self.interrupted = False

    def run(self) -> Any:
        """Run the cell; bind its outputs; return the value of its last expression. Raises the task's exception.

        With ``--background`` it returns a `BackgroundRun` at once.
        """
        self._check_limits()
        if self._said.sweeps:
            return self._sweep()
        task, parts = self._source.read()
        if self._said.remote:
            task = self._for_cluster(task, parts)
        escalation = self._escalation(task)
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = task
        if self._said.fit:
            return self._fit(task, parts)
        run = self._session.begin(
            task.name,
            Cell(background=self._said.background, code=hash(self._cell)),
            said=self._said.name or "cell",
            remote=self._said.remote,
        )
        if self._said.background:
            return self._in_background(run, task, parts)
        try:
            run = self._escalating(escalation, run, task, parts)
        except KeyboardInterrupt as interrupt:
            self.interrupted = True
            raise self._aborted(self._running, interrupt) from None
        if escalation is not None and escalation.grown:
            self._keep_grown(escalation)
        else:
            self._advise(run)
        self._shell.compile.flags |= parts.names.futures  # for later cells too
        return self._land(run)

    def _for_cluster(self, task: CellTask, parts: CellParts) -> CellTask:
        """Return the task as one for the cluster. Raises UsageError for what would fail there, before it is sent."""
        from flyte_notebook.sdk.cluster import submission  # noqa: PLC0415 - most notebooks need none

        said = self._said
        try:
            submission.client()
            place = submission.Place(image=said.image, project=said.project, domain=said.domain)
            return submission.task_for_cluster(task, parts, place)
        except UnreadableOutputsError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        except RefusedRunError as error:
            raise UsageError(f"{MAGIC}: {error}") from None

    def _escalation(self, task: CellTask) -> OomEscalation | None:
        """Return how the limit grows, ``None`` if it does not. Raises UsageError if it cannot."""
        growth = self._said.on_oom
        if growth is None:
            return None
        try:
            escalation = OomEscalation(task, growth)
        except GrowthError as error:
            raise UsageError(f"{MAGIC}: --on-oom: {error}") from None
        if not self._said.remote:
            self._check_room(f"--on-oom: {quantity_memory(growth.cap_bytes)}", growth.cap_bytes)
        return escalation

    def _escalating(self, escalation: OomEscalation | None, run: Run, task: CellTask, parts: CellParts) -> Run:
        """Run to the end, again with more memory after each OOM if the limit may grow; return the last run."""
        self._running = run
        while escalation is not None:
            try:
                self._to_its_end(run, escalation.task, parts)
            except (OOMError, UnschedulableError) as error:
                escalation.failed(error)
                run = self._running = escalation.begin(self._session)
            else:
                return run
        self._to_its_end(run, task, parts)
        return run

    def _keep_grown(self, escalation: OomEscalation) -> None:
        """Show how the limit grew, and assign the task with the limit to keep to the notebook's name."""
        self._show(escalation.bundle(self._session, escalation_bundle))
        kept, now = quantity_memory(escalation.kept_bytes), ""
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = escalation.kept
            now = f"`{self._said.name}` has a limit of {kept} from now on; "
        self._show({"text/plain": f"[flyte_notebook: {now}write --memory {kept} in the cell to keep it]"})

    def _advise(self, run: Run) -> None:
        """Note a sufficient limit for a cell whose first line set far too much; once for each cell and limit."""
        attempt = run.actions[0].attempts[-1] if run.actions and run.actions[0].attempts else None
        enough = None if attempt is None else would_do(attempt.trace, attempt.limits.memory_bytes)
        if attempt is None or enough is None or self._said.quiet or self._said.memory_bytes is None:
            return
        which = (self._said.name or str(hash(self._cell)), attempt.limits.memory_bytes)
        if which not in self._cards.advised:
            self._cards.advised.add(which)
            whom = f" for {run.task_name}" if len(run.actions) > 1 else ""
            run.advice = f"{quantity_memory(enough)} would be enough{whom}"

    def _fit(self, task: CellTask, parts: CellParts) -> Any:
        """Find the limit, show it, and continue as after a run that passed."""
        passed: list[Run] = []

        def call(run: Run, tried: CellTask, trial: Trial) -> None:
            self._to_its_end(run, tried, parts, trial)
            for earlier in passed:
                earlier.returned = None  # only the results of the last run are assigned
            passed[:] = [run]

        search = Fitting(self._session, task, call, cell=True)
        try:
            found = search.run_and_show(fit_bundle)
        except FitError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        except KeyboardInterrupt as interrupt:
            for run in passed:
                run.returned = None  # no results are assigned, and the history keeps the run
            self.interrupted = True
            raise self._aborted(search.running, interrupt) from None
        self._show(fit_bundle(found))
        if self._said.name is not None and found.resources is not None:
            self._shell.user_ns[self._said.name] = task.override(resources=found.resources)
            kept = quantity_memory(found.task.recommended_bytes or 0)
            self._show({"text/plain": f"[flyte_notebook: `{self._said.name}` has a limit of {kept} from now on]"})
        return self._land(passed[-1]) if passed else None

    def _sweep(self) -> None:
        """Run the cell across limits and values, and show the result; it is in ``_``, and no variables are assigned."""
        sweep = CellSweep(self._session, self._said, self._source.read)
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = sweep.task
        try:
            with liveline.hushed() if self._said.quiet else contextlib.nullcontext():
                found = sweep.run()
        except KeyboardInterrupt as interrupt:
            self.interrupted = True
            self._session.stop_run(sweep.name)
            raise self._aborted(None, interrupt) from None
        self._show(sweep_bundle(found))
        self._shell.displayhook.update_user_ns(found)

    def _to_its_end(self, run: Run, task: CellTask, parts: CellParts, trial: Trial | None = None) -> None:
        """Run the task; its results are added to the run. Raises its exception, with the failure."""
        if not self._said.background:
            self._session.generators[run.name] = generators.read()
        try:
            with liveline.hushed() if self._said.quiet else contextlib.nullcontext():
                self._session.run(run, task, tuple(parts.inputs.values()), trial=trial)
        except PicklingProblem as problem:
            self._session.history.forget(run.name)
            spooled.end(run.name, failed=False)
            raise UsageError(f"{MAGIC}: {problem}; make it in the cell, or leave it out with --inputs") from None
        except UnreadableOutputsError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        except RefusedRunError as error:
            self._session.history.forget(run.name)
            raise UsageError(f"{MAGIC}: {error}") from None
        except BaseRuntimeError as error:
            self._session.not_started(run, error)
            self._cards.remember_task(run.name, task)
            raise
        finally:
            self._session.generators.pop(run.name, None)  # for example if nothing ran, as the result is from the cache

    def _in_background(self, run: Run, task: CellTask, parts: CellParts) -> BackgroundRun:
        self._sink = output.cell_sink(self._shell)
        call, ended = (
            functools.partial(self._in_thread, run, task, parts),
            functools.partial(self._over, run, self._sink),
        )
        return self._cards.background.begin(run, self._sink, call=call, ended=ended)

    def _in_thread(self, run: Run, task: CellTask, parts: CellParts) -> Any:
        self._to_its_end(run, task, parts)
        return None if run.returned is None else run.returned.result

    def _over(self, run: Run, sink: output.Sink, handle: BackgroundRun) -> Callable[[], object] | None:
        """Show how a background run ended; return a function that assigns its outputs. In the run's thread."""
        if isinstance(handle.failure, Failure):
            self._cards.show(handle.failure, sink)
        elif handle.error is not None:
            sink.write("stderr", f"{type(handle.error).__name__}: {handle.error}\n")
            sink.flush()
        return None if run.returned is None else self._cards.idle.call(functools.partial(self._land, run))

    def _check_limits(self) -> None:
        memory_bytes = self._said.memory_bytes
        if memory_bytes is None or self._said.remote:
            return
        self._session.engine.wait_until_proven()
        needed = self._session.engine.baseline_bytes
        if needed is not None and memory_bytes < needed:
            raise UsageError(f"{MAGIC}: --memory {too_little(quantity_memory(memory_bytes), needed)}")
        self._check_room(f"--memory {quantity_memory(memory_bytes)}", memory_bytes)

    def _check_room(self, what: str, memory_bytes: int) -> None:
        capacity = machine.capacity_bytes()
        if memory_bytes > capacity:
            raise UsageError(f"{MAGIC}: {what} is more than this machine has ({format_memory(capacity)})")

    def _aborted(self, run: Run | None, interrupt: KeyboardInterrupt) -> BaseException:
        """Wait until the stopped run has ended, and return its error."""
        stopped = None if run is None else self._session.stop_and_wait(run, STOP_BOUND_S)
        if stopped is not None:
            self._session.blame(stopped.error)
            return stopped.error
        return interrupt.__cause__ or RunAbortedError("the cell was interrupted before its task started")

    def _land(self, run: Run) -> Any:
        """Assign the cell's results in the notebook; return the value of its last expression. On the main thread."""
        values, run.returned = run.returned, None
        if values is None:
            return None
        result = values.result
        if not run.cached and not run.background:
            generators.write(values.outcome.generators)
        land(
            values,
            self._shell.user_ns,
            self._show,
            notes=["the result is from the cache"] if run.cached else [],
            note_setting=self._note_setting,
            silent=bool(DisplayHook.semicolon_at_end_of_expression(self._cell)),  # type: ignore[no-untyped-call]  # theirs
        )
        return result

    def _note_setting(self, what: str) -> None:
        self._note_once(f"{what} changed in the task only; make such a change in a cell without {MAGIC}")

    def _note_once(self, note: str) -> None:
        """Show a note once per notebook."""
        if note not in self._cards.noted:
            self._cards.noted.add(note)
            self._show({"text/plain": f"[flyte_notebook: {note}]"})

    def _show(self, data: dict[str, Any]) -> None:
        if self._sink is not None:
            self._sink.display({"data": data})
            return
        self._shell.display_pub.publish(data=data, metadata={})
