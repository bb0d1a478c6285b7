"""The kernel's side of the seam: a session turns the SDK's local mode into an enforced one, and back."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flyte_notebook.engine import Engine, Origin
from flyte_notebook.engine.sinks import StandardSink
from flyte_notebook.errors import InlineIOMaxBytesBreached, RunAbortedError
from flyte_notebook.history import History
from flyte_notebook.job import Surroundings
from flyte_notebook.outcome import Failure, Success
from flyte_notebook.scheduler import MAX_PROCESSES
from flyte_notebook.sdk import seam, tasks
from flyte_notebook.sdk.inputs import NamingConversion
from flyte_notebook.sdk.recording import Recording
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.worker import pickling

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Run
    from flyte_notebook.job import Job, Semantics

CANARY = "flyte_notebook.sdk.inside:canary"
BEFORE = (
    "flyte_notebook.notebook.shell_in_worker:install_lazily",
    "flyte_notebook.notebook.shell_in_worker:forbid_prompts",
)
AFTER = ("flyte_notebook.notebook.shell_in_worker:finish_cell",)
"""What a worker calls around its job, by name: rich output and clear errors for prompts, IPython only when needed."""


class Session:
    """One stretch of enforcement, from `open` to `close`. At most one is open in a process.

    ``sink`` is called where a run begins, in its context, and returns where the run's output goes. ``semantics`` may be
    set at any time; it counts for attempts that begin afterwards.
    """

    def __init__(
        self,
        *,
        history: History | None = None,
        sink: Callable[[], Sink] = StandardSink,
        max_processes: int = MAX_PROCESSES,
        semantics: Semantics = "cluster",
    ) -> None:
        self.semantics: Semantics = semantics
        self.history = history if history is not None else History()
        self.engine = Engine(history=self.history, canary=CANARY, max_processes=max_processes)
        self._sink = sink
        self._undo: list[Callable[[], None]] = []
        self._said: set[str] = set()

    def open(self) -> None:
        """Start the engine and take the seam. Raises `EngineError` or RuntimeError; then the SDK is untouched."""
        self.engine.start()
        try:
            self._undo.append(seam.replace_dispatch(self._dispatch))
            self._undo.append(seam.replace_call(self._call_outside))
            self._undo.append(seam.replace_conversion(NamingConversion))
        except BaseException:
            self.close()
            raise

    def on_close(self, undo: Callable[[], None]) -> None:
        """Have something undone when the session closes."""
        self._undo.append(undo)

    def close(self) -> None:
        """Put the SDK back as it was, stop everything, and wait until it is gone. Idempotent."""
        while self._undo:
            self._undo.pop()()
        self.engine.close()
        spooled.clear()

    def stop_all(self, reason: str = "interrupted") -> BaseException | None:
        """Have everything that runs stopped; returns at once, the error that says so, ``None`` if nothing ran."""
        if not self.engine.stop_all():
            return None
        return RunAbortedError(f"the run was aborted: {reason}")

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs any more; return whether that came true in time."""
        until_s = time.monotonic() + timeout_s
        while self.engine.active and time.monotonic() < until_s:
            time.sleep(0.005)
        return not self.engine.active

    def run(self, task: Any, args: tuple[Any, ...], *, name: str) -> Any:
        """Run a task under a run name of our choice and return its native result; blocks.

        By position: inputs named ``task`` or ``self`` would collide with names of the SDK.
        """
        return seam.native_outputs(task, seam.run_local(task, args, {}, name=name))

    def _call_outside(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give ``task(...)`` outside of any run an enforced run of its own."""
        if task._call_as_synchronous:  # noqa: SLF001 - how the SDK itself tells the two kinds apart
            return seam.native_outputs(task, seam.run_local(task, args, kwargs))

        async def run() -> Any:
            return seam.native_outputs(task, await seam.run_local_async(task, args, kwargs))

        return run()

    async def _dispatch(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Stand in for the SDK's direct dispatch in the kernel: run the attempt in a worker."""
        call = seam.call_arguments(args, kwargs)
        try:
            job = replace(tasks.job_for(call, root=True), semantics=self.semantics)
            tasks.check_inline_size(call["task"], call["inputs"].proto_inputs.literals, "input")
        except (ValueError, InlineIOMaxBytesBreached) as error:
            return None, seam.for_retry_loop(
                tasks.refusal(error, call["task"].name), last=tasks.attempts_of(call["task"]) == 1
            )
        controller = seam.controller_of(args, kwargs)
        seam.end_runners_with(controller)
        recorder = seam.recorder_of(controller)
        origin = Origin(
            sink=self._sink(),
            surroundings=surroundings(),
            before=BEFORE,
            after=AFTER,
            observer=None if recorder is None else Recording(recorder, call["action"].name),
        )
        self._say_what_is_not_enforced(call["task"], job, origin.sink)
        run = self.history.begin(job.run, job.label)
        failed = False
        try:
            outcome = await asyncio.wrap_future(self.engine.submit(job, origin))
            failed = isinstance(outcome, Failure)
        finally:
            spooled.end(job.run, failed=failed)
        if isinstance(outcome, Success):
            run.failure = None
            return pickling.loads(outcome.answer), None
        run.failure = self.history.last_failure = _origin_of(outcome, run)
        outcome.error.failure = run.failure  # type: ignore[attr-defined]  # what the user is to see
        return None, seam.for_retry_loop(outcome.error, last=outcome.attempt + 1 >= outcome.max_attempts)

    def _say_what_is_not_enforced(self, task: Any, job: Job, sink: Sink) -> None:
        for name in tasks.not_enforced(task):
            self._say_once(sink, f"{name} is declared but not enforced on this machine")
        cores = os.cpu_count() or 1
        if job.limits.cpu_cores is not None and job.limits.cpu_cores > cores:
            self._say_once(sink, f"cpu={job.limits.cpu_cores:g} is more than this machine has; {cores} cores it is")

    def _say_once(self, sink: Sink, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            sink.write("stderr", f"[flyte_notebook: {sentence}]\n")


def surroundings() -> Surroundings:
    """Return what a worker is to see of this process now."""
    cwd = os.getcwd()
    return Surroundings(cwd=cwd, environ=dict(os.environ), sys_path=tuple(entry or cwd for entry in sys.path))


def _origin_of(failure: Failure, run: Run) -> Failure:
    """Return the failure that the user is to see: that of the attempt which the error came from.

    A killed attempt has no lines of its own; those of the callers that let its error through say where it came up.
    """
    origin = run.failure_of(failure.worker) if failure.reason == "raised" and failure.worker else None
    if origin is None or origin is failure:
        return failure
    return replace(origin, lines=(*failure.lines, *origin.lines), traceback=origin.traceback or failure.traceback)
