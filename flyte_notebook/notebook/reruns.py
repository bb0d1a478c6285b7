"""Runs a failed attempt again under other settings: by a click on its card, or by ``%flyte rerun``.

Both use the same code path as the first run: the same task, overridden, is called through the session with the same
inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook

from flyte_notebook import history
from flyte_notebook.cells.version import digest
from flyte_notebook.core.overrides import (
    Machine,
    Override,
    call_code,
    describe,
    magic_code,
    options_code,
    read,
    settings_code,
)
from flyte_notebook.core.units import quantity_memory
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import enforcement, settings
from flyte_notebook.sdk.repeats import InputsGoneError, with_override

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flyte_notebook.cells.analysis import CellNames
    from flyte_notebook.cells.returned import ReturnedValues
    from flyte_notebook.core.job import CallFacts, Job
    from flyte_notebook.core.outcome import Failure
    from flyte_notebook.core.overrides import FieldName
    from flyte_notebook.history import Run
    from flyte_notebook.sdk.session import Session


COMPARED_BYTES = 1 << 20
"""Values up to this size are compared by their content."""

_GONE = object()
"""Marks the value of a name that the notebook does not have any more."""

_PLAIN = (bool, int, float, complex, str, bytes)
"""Classes whose values are compared by their text: it is how an input is written in code."""


_OF_IPYTHON = re.compile(r"_+|_i+|_i?\d+|_[a-z]h|In|Out")
"""Names that IPython binds again for each cell; a notebook with hundreds of cells has hundreds of them."""


class NoRerunError(RuntimeError):
    """This failure cannot be run again; the text says why, and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a rerun: its value, and all results of a cell, ``None`` for any other task.

    ``silent`` is whether the cell ends in a semicolon: then its value is not shown.
    """

    value: Any
    values: ReturnedValues | None = None
    silent: bool = False


class Rerun:
    """Runs a failure again.

    ``task`` is that of the failed cell, if it was a cell: it can still be called when the failure's inputs are not kept
    any more.
    """

    def __init__(self, failure: Failure, namespace: Mapping[str, Any], session: Session, task: Any = None) -> None:
        self.failure = failure
        self._session = session
        self._namespace = namespace
        run = session.history.run_of(failure.worker)
        found = None if run is None else run.attempt(failure.worker)
        self.lands = run is not None and run.of_cell and found is not None and found[0].parent is None
        """Whether its outputs belong in the notebook: it is a cell's own task, not a nested task."""
        self.started = found is not None
        """Whether there was an attempt; an error raised in the notebook, or a refusal, has none."""
        self.remote = run is not None and run.remote
        """Whether it runs on the cluster."""
        self._task: Any = task if self.lands else None
        self._ids: dict[str, int] = {}
        self._digests: dict[str, str | None] = {}
        self._changed: set[str] = set()
        self.today = False
        """Whether to run it with what the inputs are in the notebook now."""
        self.read_by_name = False
        """Whether the last run took its inputs from the notebook, because the original ones are not kept any more."""

    @property
    def machine(self) -> Machine:
        """The bounds of an override on this machine."""
        if self.remote:
            return Machine()  # how large the nodes of a cluster are is not known
        engine = self._session.engine
        cores = max(machine.cpu_count(), self.failure.limits.cpu_cores or 0)  # more may be declared than there are
        return Machine(memory_bytes=machine.capacity_bytes(), cpu_cores=cores, worker_bytes=engine.baseline_bytes)

    def check_override(self, override: Override) -> None:
        """Raise `NoRerunError` for an override that is not possible on this machine."""
        texts: dict[FieldName, str] = {}
        if override.memory_bytes is not None:
            texts["memory"] = quantity_memory(override.memory_bytes)
        if override.cpu_cores is not None:
            texts["cpu"] = f"{override.cpu_cores:g}"
        if override.retries is not None:
            texts["retries"] = str(override.retries)
        checked = read(texts, self.machine)
        if isinstance(checked, dict):
            raise NoRerunError(next(iter(checked.values())))

    @property
    def possible(self) -> bool:
        """Whether something was started, and is known well enough to be run again."""
        return self.started and (self.lands or not self.remote)

    def check(self) -> None:
        """Raise `NoRerunError` when it is known that a rerun is impossible."""
        if not self.started:
            raise NoRerunError("nothing was started, so there is nothing to run again; correct the cell and run it")
        if enforcement.current() is not self._session:
            raise NoRerunError("the extension was unloaded; run the cell again")
        if self._job is None and not self.lands:
            raise NoRerunError("the inputs of this attempt are not kept any more; run its cell again")

    @property
    def _job(self) -> Job | None:
        return self._session.repeats.job(self.failure.worker)

    def code(self, override: Override) -> str:
        """Return code that does the same: the task's own call, or the magic if no variable holds the task."""
        facts = self._facts
        if facts is None:
            return magic_code(override)
        arguments = dict(facts.arguments)
        if self.lands:
            then = set() if self.today else set(self.changed_inputs)
            arguments = {name: code if name in then else name for name, code in arguments.items()}
        return call_code(
            facts.callee,
            override,
            declared=facts.resources,
            inputs=arguments,
            awaited=facts.awaited,
            limits=self.failure.limits,
        )

    def keep(self, override: Override) -> tuple[tuple[str, str], ...]:
        """Return where the settings of an override can be kept, each with the text to write there."""
        if not override:
            return ()
        facts = self._facts
        places = [("To keep it, write in the first line of the cell:", options_code(override))] if self.lands else []
        if facts is not None:
            where = "Or, where the task is defined or called:" if places else "To keep it, give the task:"
            places.append((where, settings_code(override, facts.resources, self.failure.limits)))
        return tuple(places)

    @property
    def _facts(self) -> CallFacts | None:
        """How the task was called, if a variable of the notebook still holds that task."""
        job = self._job
        facts = None if job is None else job.call
        held = None if facts is None else self._namespace.get(facts.callee)
        same = settings.is_task(held) and getattr(held, "name", None) == self.failure.task_name
        return facts if same else None

    @property
    def changed_inputs(self) -> tuple[str, ...]:
        """The inputs of a cell whose variables have another value since it failed, or may have."""
        if not self.lands:
            return ()
        now, values = self._namespace, self._values
        plain = {name for name in values if isinstance(now.get(name, _GONE), _PLAIN)}
        known = [name for name in self._inputs if name in plain and values[name] != repr(now[name])]
        changed = self.changed_since([name for name in self._inputs if name not in plain])
        # No text of any other value: that of a large table takes long, that of a cut file kills the kernel.
        changed = tuple(name for name in changed if name not in values or values[name] != repr(now.get(name, _GONE)))
        return (*known, *changed)

    @property
    def _inputs(self) -> list[str]:
        return [fact.name for fact in self.failure.inputs]

    @property
    def _values(self) -> dict[str, str]:
        """The inputs that can be written in code, as they were."""
        facts = None if self._job is None else self._job.call
        written = {} if facts is None else facts.arguments
        return {name: expression for name, expression in written.items() if expression != name}

    @property
    def inputs_words(self) -> str:
        """What a click takes as inputs, where today's are others; else empty."""
        values = self._values
        then = [f"`{name}={values[name]}`" if name in values else f"`{name}`" for name in self.changed_inputs]
        return f"with the inputs of then ({', '.join(then)})" if then else ""

    @property
    def known_inputs_words(self) -> str:
        """The same for the inputs whose values are known; for a rerun that no card has watched since the failure."""
        values = self._values
        then = [f"`{name}={values[name]}`" for name in self.changed_inputs if name in values]
        return f"it ran with the inputs of then ({', '.join(then)})" if then else ""

    @property
    def code_words(self) -> str:
        """Which code a click runs, where the task has other code now; else empty."""
        named = self._namespace.get(self.failure.task_name)
        cell = getattr(self._task, "cell", None)
        now = getattr(named, "cell", None)
        if cell is None or now is None or now.source == cell.source:
            return ""
        return f"with the code of then; `{self.failure.task_name}` was defined again, run its cell for the new code"

    def words(self, override: Override) -> str:
        """Return the task with what an override changes, in a few words."""
        return " with ".join(filter(None, [f"`{self.failure.task_name}`", describe(override)]))

    def begin(self, override: Override, *, background: bool) -> Run:
        """Return the run for the rerun; it is in the history from now on."""
        origin = self._session.history.origin_of(self.failure.worker)
        purpose = history.Rerun(of=origin, changed=describe(override), cell=self.lands, background=background)
        return self._session.begin(self.failure.task_name, purpose, remote=self.remote)

    def run(self, override: Override, run: Run) -> Result:
        """Run it again, to its end. Raises the task's exception, or `NoRerunError`. In any thread."""
        try:
            self.check()
            task, arguments = self._task_and_arguments()
            task = _overridden(task, override)
        except BaseException:
            self._session.history.forget(run.name)  # the run did not begin
            raise
        value = self._session.run(run, task, (), arguments)
        if self.lands:
            values, run.returned = run.returned, None
            return Result(value=value, values=values, silent=_ends_in_semicolon(task))
        self._session.history.keep_outputs(run.name, {"result": value})
        return Result(value=value)

    def _task_and_arguments(self) -> tuple[Any, dict[str, Any]]:
        self.read_by_name = False
        if self.today and self._task is None and self.lands:
            self._task = self._session.repeats.find(self.failure.worker).task
        if self.today and self._task is not None:
            return self._task, self._inputs_now()
        try:
            repeat = self._session.repeats.find(self.failure.worker)
            if self._task is None and self.lands:
                self._task = repeat.task
            return repeat.task, repeat.arguments()
        except InputsGoneError as error:
            if self._task is None:
                raise NoRerunError(str(error)) from None
        inputs = self._inputs_now()
        self.read_by_name = True
        return self._task, inputs

    def _inputs_now(self) -> dict[str, Any]:
        names = list(self._task.native_interface.inputs)
        missing = [name for name in names if name not in self._namespace]
        if missing:
            listed = ", ".join(f"`{name}`" for name in missing)
            raise NoRerunError(f"the notebook has no {listed} any more; run the cell again")
        return {name: self._namespace[name] for name in names}

    def remember(self) -> None:
        """Record the current values of the notebook's names, for `changed_since`."""
        namespace = dict(self._namespace)
        self._ids = {name: id(value) for name, value in namespace.items() if not _OF_IPYTHON.fullmatch(name)}
        cell = getattr(self._task, "cell", None)
        if cell is not None:
            names = {*(cell.outputs or ()), *cell.assigned, *cell.mutated} & set(namespace)
            self._digests = {name: digest(namespace[name], limit_bytes=COMPARED_BYTES) for name in names}

    def notice(self, names: CellNames | None) -> None:
        """Note the names that an ended cell changed, by its text: a new value may look like an old one.

        ``None`` when its text cannot be read.
        """
        namespace = self._namespace
        self._changed.update(name for name, was in self._ids.items() if id(namespace.get(name, _GONE)) != was)
        if names is not None:
            self._changed.update(names.assigned, names.mutated, names.deleted)
            # A method may have changed a value that is too large to compare.
            self._changed.update(name for name in names.called_on if self._digests.get(name, "") is None)

    def changed_since(self, names: Collection[str]) -> tuple[str, ...]:
        """Return which of these names were bound again, or changed, since `remember`."""
        return tuple(name for name in names if self._has_changed(name))

    def _has_changed(self, name: str) -> bool:
        if _OF_IPYTHON.fullmatch(name):
            return False
        now = self._namespace.get(name, _GONE)
        if name in self._changed or id(now) != self._ids.get(name, id(_GONE)):
            return True
        before = self._digests.get(name)
        return before is not None and before != digest(now, limit_bytes=COMPARED_BYTES)


def _overridden(task: Any, override: Override) -> Any:
    try:
        return with_override(task, override)
    except ValueError as error:
        raise NoRerunError(f"the SDK cannot override this task: {error}") from error


def _ends_in_semicolon(task: Any) -> bool:
    """Whether a cell ends in a semicolon, so that its last value is not shown."""
    source = getattr(getattr(task, "cell", None), "source", "")
    return bool(DisplayHook.semicolon_at_end_of_expression(source))  # type: ignore[no-untyped-call]  # IPython's
