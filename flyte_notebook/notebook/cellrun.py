"""One ``%%flyte_task`` cell from its text to its outputs in the notebook."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import linecache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from flyte_notebook.bound import unique
from flyte_notebook.cells import generators, library_settings
from flyte_notebook.cells.analysis import FUTURES
from flyte_notebook.cells.returned import bind
from flyte_notebook.cells.selection import CannotSendError, UnknownNameError
from flyte_notebook.errors import BaseRuntimeError, OOMError, RunAbortedError, UnschedulableError, failure_in
from flyte_notebook.fitting import would_do
from flyte_notebook.growing import GrowthError
from flyte_notebook.limiters import machine
from flyte_notebook.notebook import formats, liveline, output, refusals
from flyte_notebook.notebook.options import MAGIC
from flyte_notebook.notebook.render import of_this_process
from flyte_notebook.notebook.sweeps import CellSweep
from flyte_notebook.outcome import Failure
from flyte_notebook.sdk import celltask, enforcement, settings
from flyte_notebook.sdk.fit import FitError, Fitting, search_and_show
from flyte_notebook.sdk.growing import Climb
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.sdk.unstarted import NOT_STARTED
from flyte_notebook.units import format_memory, quantity_memory
from flyte_notebook.views.fit import fit_bundle
from flyte_notebook.views.growing import growing_bundle
from flyte_notebook.views.sweep import sweep_bundle
from flyte_notebook.worker.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.cells.returned import ReturnedValues
    from flyte_notebook.history import Run
    from flyte_notebook.notebook.background import BackgroundRun
    from flyte_notebook.notebook.cards import Cards
    from flyte_notebook.notebook.options import CellOptions
    from flyte_notebook.sdk.celltask import CellParts, CellTask
    from flyte_notebook.sdk.session import Session
    from flyte_notebook.sdk.trials import Trial

STOP_BOUND_S = 3.0


class CellRun:
    """Runs one cell as a task. Everything that can be wrong is said before anything runs, as far as it can be known.

    ``interrupted``: it was stopped by an interrupt of the kernel.
    """

    def __init__(self, shell: Any, said: CellOptions, cell: str, cards: Cards, *, line: str) -> None:
        session = enforcement.current()
        if session is None:
            raise UsageError(f"{MAGIC}: limits are not enforced now; run %reload_ext flyte_notebook")
        lost = celltask.lost()
        if lost:
            raise UsageError(f"{MAGIC}: {lost}")
        self._session: Session = session
        self._shell = shell
        self._said = said
        self._cell = cell
        self._line = line
        self._cards = cards
        self._sink: output.Sink | None = None
        self._running = ""
        self.interrupted = False

    def run(self) -> Any:
        """Run the cell; bind its outputs; return the value of its last expression. Raises what the task raised.

        With ``--background`` it returns a `BackgroundRun` at once.
        """
        self._check_limits()
        if self._said.sweeps:
            return self._sweep()
        task, parts = self._task()
        climb = self._climb(task)
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = task
        if self._said.fit:
            return self._fit(task, parts)
        name = f"{self._said.name or 'cell'}-{unique()[:12]}"
        run = enforcement.history.begin(name, task.name)
        run.lands = True
        if self._said.background:
            return self._in_background(task, parts, run)
        try:
            run, values = self._growing(climb, task, parts, run)
        except KeyboardInterrupt as interrupt:
            self.interrupted = True
            raise self._aborted(self._running, interrupt) from None
        if climb is not None and climb.grown:
            self._keep_grown(climb)
        else:
            self._advise(run)
        self._shell.compile.flags |= parts.names.futures  # later cells have them too
        return None if values is None else self._bind(values, cached=run.cached)

    def _climb(self, task: CellTask) -> Climb | None:
        """Return how the limit grows, ``None`` where it does not. Raises UsageError where it cannot."""
        growth = self._said.on_oom
        if growth is None:
            return None
        try:
            climb = Climb(task, growth)
        except GrowthError as error:
            raise UsageError(f"{MAGIC}: --on-oom: {error}") from None
        self._check_room(f"--on-oom: {quantity_memory(growth.cap_bytes)}", growth.cap_bytes)
        return climb

    def _growing(
        self, climb: Climb | None, task: CellTask, parts: CellParts, run: Run
    ) -> tuple[Run, ReturnedValues | None]:
        """Run to the end, again with more memory after each OOM where the limit may grow; return the last run."""
        self._running = run.name
        while climb is not None:
            try:
                return run, self._to_its_end(climb.task, parts, run)
            except (OOMError, UnschedulableError) as error:
                climb.failed(error)
                run = climb.begin(self._session)
                self._running = run.name
        return run, self._to_its_end(task, parts, run)

    def _keep_grown(self, climb: Climb) -> None:
        """Show how the limit grew, and have the notebook's name hold what passed."""
        self._show(climb.bundle(self._session, growing_bundle))
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = climb.task
            kept = quantity_memory(climb.tried[-1])
            self._show({"text/plain": f"[flyte_notebook: `{self._said.name}` has a limit of {kept} from now on]"})

    def _advise(self, run: Run) -> None:
        """Note what would do for a cell whose first line gave it far too much; once for each cell and limit."""
        attempt = run.actions[0].attempts[-1] if run.actions and run.actions[0].attempts else None
        enough = None if attempt is None else would_do(attempt.trace, attempt.limits.memory_bytes)
        if attempt is None or enough is None or self._said.quiet or self._said.memory_bytes is None:
            return
        which = (self._said.name or str(hash(self._cell)), attempt.limits.memory_bytes)
        if which not in self._cards.advised:
            self._cards.advised.add(which)
            run.advice = f"{quantity_memory(enough)} would do"

    def _fit(self, task: CellTask, parts: CellParts) -> Any:
        """Find the limit, show it, and go on as after a run that passed."""
        returned: list[ReturnedValues | None] = []

        def call(tried: CellTask, name: str, trial: Trial) -> None:
            run = enforcement.history.begin(name, task.name)
            run.lands = True
            values = self._to_its_end(tried, parts, run, trial)
            returned[:] = [values]

        search = Fitting(self._session, task, call)
        try:
            found = search_and_show(search, fit_bundle)
        except FitError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        except KeyboardInterrupt as interrupt:
            self.interrupted = True
            raise self._aborted(search.running, interrupt) from None
        self._show(fit_bundle(found))
        if self._said.name is not None and found.resources is not None:
            self._shell.user_ns[self._said.name] = task.override(resources=found.resources)
            kept = quantity_memory(found.task.recommended_bytes or 0)
            self._show({"text/plain": f"[flyte_notebook: `{self._said.name}` has a limit of {kept} from now on]"})
        values = returned[-1] if returned else None
        return None if values is None else self._bind(values, cached=False)

    def _sweep(self) -> None:
        """Run the cell across limits and values, and show what was found; it stands in ``_``, and nothing lands."""
        sweep = CellSweep(self._session, self._said, self._task)
        if self._said.name is not None:
            self._shell.user_ns[self._said.name] = sweep.task
        try:
            with liveline.hushed() if self._said.quiet else contextlib.nullcontext():
                found = sweep.run()
        except KeyboardInterrupt as interrupt:
            self.interrupted = True
            raise self._aborted(sweep.name, interrupt) from None
        self._show(sweep_bundle(found))
        self._shell.displayhook.update_user_ns(found)

    def _to_its_end(
        self, task: CellTask, parts: CellParts, run: Run, trial: Trial | None = None
    ) -> ReturnedValues | None:
        try:
            values = self._returned(task, parts, run.name, trial)
        except PicklingProblem as problem:
            enforcement.history.forget(run.name)
            spooled.end(run.name, failed=False)
            raise UsageError(f"{MAGIC}: {problem}; make it in the cell, or leave it out with --inputs") from None
        except BaseRuntimeError as error:
            if run.failure is None:  # it came from no attempt: the session refused the task, or the SDK its inputs
                run.failure = failure_in(error) or of_this_process(error, task.name, NOT_STARTED)
                enforcement.history.last_failure = run.failure
                error.failure = run.failure  # type: ignore[attr-defined]  # as on every error that reaches the user
            self._cards.remember_task(run.name, task)
            raise
        run.cached = not run.actions
        return values

    def _in_background(self, task: CellTask, parts: CellParts, run: Run) -> BackgroundRun:
        sink = self._sink = output.cell_sink(self._shell)
        returned: list[ReturnedValues] = []

        def call() -> Any:
            values = self._to_its_end(task, parts, run)
            if values is None:
                return None
            returned.append(values)
            return values.result

        def ended(handle: BackgroundRun) -> Callable[[], object] | None:
            if isinstance(handle.failure, Failure):
                self._cards.show(handle.failure, sink)
            elif handle.error is not None:
                sink.write("stderr", f"{type(handle.error).__name__}: {handle.error}\n")
                sink.flush()
            land = functools.partial(self._bind, returned[0], cached=run.cached) if returned else None
            return None if land is None else self._cards.idle.call(land)

        return self._cards.background.begin(run, sink, call=call, ended=ended)

    def _returned(
        self, task: CellTask, parts: CellParts, name: str, trial: Trial | None = None
    ) -> ReturnedValues | None:
        heard: list[ReturnedValues] = []
        undo = celltask.last_outputs.listen(lambda run, values: heard.append(values) if run == name else None)
        if not self._said.background:
            self._session.generators[name] = generators.read()
        try:
            with liveline.hushed() if self._said.quiet else contextlib.nullcontext():
                self._session.run(task, tuple(parts.inputs.values()), name=name, trial=trial)
        finally:
            undo()
            self._session.generators.pop(name, None)  # nothing ran, say: the result is from the cache
        return heard[-1] if heard else None

    def _check_limits(self) -> None:
        memory_bytes = self._said.memory_bytes
        if memory_bytes is None:
            return
        self._session.engine.wait_until_proven()
        needed = self._session.engine.baseline_bytes
        if needed is not None and memory_bytes < needed:
            raise UsageError(
                f"{MAGIC}: --memory {quantity_memory(memory_bytes)} is below what Python and Flyte themselves "
                f"need ({format_memory(needed)}); write for example --memory 128Mi"
            )
        self._check_room(f"--memory {quantity_memory(memory_bytes)}", memory_bytes)

    def _check_room(self, what: str, memory_bytes: int) -> None:
        capacity = machine.capacity_bytes()
        if memory_bytes > capacity:
            raise UsageError(f"{MAGIC}: {what} is more than this machine has ({format_memory(capacity)})")

    def _task(self, besides: Mapping[str, Any] = MappingProxyType({})) -> tuple[CellTask, CellParts]:
        """Read the cell, with the variables of the notebook and those ``besides``."""
        said, shell = self._said, self._shell
        head = self._head()
        source = "\n" * head.count("\n") + shell.transform_cell(self._cell)
        # Not execution_count, which counts this cell already in some versions and not yet in others.
        filename = f"Cell In[{len(shell.history_manager.input_hist_raw) - 1}]"
        text = head + source[head.count("\n") :]
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        try:
            known = {**shell.user_ns, **besides} if besides else shell.user_ns
            parts = celltask.read_cell(
                source,
                known,
                filename=filename,
                inputs=said.inputs,
                outputs=said.outputs,
                futures=shell.compile.flags & FUTURES,
                head=head,
            )
        except SyntaxError as error:
            raise refusals.syntax_error(error, source) from None
        except UnknownNameError as error:
            if error.name in (said.inputs or ()):
                raise UsageError(f"{MAGIC}: {error}") from None
            raise refusals.name_error(error, source, filename) from None
        except CannotSendError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        self._check_name(parts)
        environment = None if said.env is None else self._environment(said.env)
        found = library_settings.read()
        for left in found.left:
            self._note_once(left)
        try:
            task = celltask.cell_task(
                said.name or "cell",
                parts,
                env=environment,
                interactivity=shell.ast_node_interactivity,
                formats=formats.read(shell),
                library_settings=found.packed,
                **settings.task_settings(_task_options(said), environment),
            )
        except CannotSendError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        return task, parts

    def _head(self) -> str:
        """Return what stands above the body in the editor, so that lines are counted as there."""
        raw = str(self._shell.history_manager.input_hist_raw[-1])
        above, found, _ = raw.partition(MAGIC)
        above = above if found and not above.strip() else ""
        # IPython leaves out empty lines at the beginning.
        body = itertools.takewhile(lambda text: not text.strip(), self._cell.splitlines())
        return f"{above}{MAGIC} {self._line}".rstrip(" ") + "\n" * (1 + len(list(body)))

    def _check_name(self, parts: CellParts) -> None:
        name = self._said.name
        if name is None:
            return
        if name in parts.names.assigned or name in (self._said.outputs or ()):
            where = "assigned in the cell" if name in parts.names.assigned else "an output"
            raise UsageError(
                f"{MAGIC}: NAME {name!r} is also {where}; it will hold the task, so give one of them another name"
            )
        held = self._shell.user_ns.get(name)
        if name in self._shell.user_ns and not settings.is_task(held):
            raise UsageError(
                f"{MAGIC}: NAME {name!r} would replace your variable ({type(held).__name__}); "
                f"use another name or del {name}"
            )

    def _environment(self, name: str) -> Any:
        held = self._shell.user_ns.get(name)
        if not settings.is_environment(held):
            is_there = name in self._shell.user_ns
            what = f"is of type {type(held).__name__}, no flyte.TaskEnvironment" if is_there else "does not exist"
            other = "env" if is_there else name
            right = f'{other} = flyte.TaskEnvironment(name="{other}")'
            raise UsageError(f"{MAGIC}: --env: `{name}` {what}; write in another cell, for example, {right}")
        return held

    def _aborted(self, name: str, interrupt: KeyboardInterrupt) -> BaseException:
        """Wait until the stopped run is gone, and return the error that says so."""
        self._session.stop_run(name)
        self._session.wait_until_over(name, STOP_BOUND_S)
        run = enforcement.history.find(name)
        if run is not None:
            for action in run.actions:
                if isinstance(action.outcome, Failure) and action.outcome.reason == "stopped":
                    run.failure = action.outcome
                    return action.outcome.error
        return interrupt.__cause__ or RunAbortedError("the cell was interrupted before its task started")

    def _bind(self, values: ReturnedValues, *, cached: bool) -> Any:
        result = values.result
        notes = bind(values, self._shell.user_ns)
        if not cached and not self._said.background:
            generators.write(values.outcome.generators)
        for note in (*(["the result is from the cache"] if cached else []), *notes):
            self._note(note)
        for what in values.outcome.settings:
            self._note_once(f"{what} changed in the task only; make such a change in a cell without {MAGIC}")
        silenced = DisplayHook.semicolon_at_end_of_expression(self._cell)  # type: ignore[no-untyped-call]  # IPython's
        if values.outcome.shown is not None and not silenced:
            self._show(dict(values.outcome.shown))
        return result

    def _note(self, note: str) -> None:
        self._show({"text/plain": f"[flyte_notebook: {note}]"})

    def _note_once(self, note: str) -> None:
        """Say something that is said once in a notebook."""
        if note not in self._cards.noted:
            self._cards.noted.add(note)
            self._note(note)

    def _show(self, data: dict[str, Any]) -> None:
        if self._sink is not None:
            self._sink.display({"data": data})
            return
        self._shell.display_pub.publish(data=data, metadata={})


def _task_options(said: CellOptions) -> settings.TaskOptions:
    names = (field.name for field in dataclasses.fields(settings.TaskOptions))
    return settings.TaskOptions(**{name: getattr(said, name) for name in names})
