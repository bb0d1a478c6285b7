"""One run on a cluster, from its submission to its outcome in the history.

It blocks as a local run does, on the loop of the SDK's blocking functions, so that the Stop button, an interrupt and
the messages of widgets are handled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.cells.returned import CellOutcome, ReturnedValues
from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.diagnosis import one_line
from flyte_notebook.core.progress import LiveAttempt, LiveState, Progress
from flyte_notebook.core.units import format_memory
from flyte_notebook.errors import RunAbortedError, RuntimeSystemError
from flyte_notebook.sdk import background_loop, initialization, tasks
from flyte_notebook.sdk.celltask import RESULT_NAME
from flyte_notebook.sdk.cluster import relies, submission
from flyte_notebook.sdk.cluster.following import Following, LostContactError
from flyte_notebook.sdk.cluster.observed import (
    INITIALIZING,
    QUEUED,
    RUNNING,
    STOPPED_HERE,
    WAITING,
)
from flyte_notebook.sdk.cluster.recording import Recorder
from flyte_notebook.sdk.cluster.uploads import Uploads
from flyte_notebook.sdk.failures_without_attempt import UnreadableOutputsError, with_failure
from flyte_notebook.sdk.types import fetched
from flyte_notebook.worker.values.sharing import shared_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.engine import Sink
    from flyte_notebook.history import History, Run
    from flyte_notebook.sdk.cluster.observed import ActionFacts, AttemptFacts
    from flyte_notebook.sdk.cluster.shipping import ClusterTask
    from flyte_notebook.sdk.session import Session

logger = logging.getLogger("flyte_notebook.sdk")

_STATES: Final[Mapping[str, LiveState]] = {INITIALIZING: "starting", RUNNING: "running"}

ENDS_S: Final = 10.0
"""How long an aborted run is followed: a cluster that is away cannot end it."""

_PHASES: Final = {
    QUEUED: "queued on the cluster",
    WAITING: "waiting for room on the cluster",
    INITIALIZING: "starting its pod",
    RUNNING: "running on the cluster",
}


class ClusterRun:
    """A run on a cluster. `stop` and `progress` are for any thread; see `flyte_notebook.sdk.watching.Group`."""

    def __init__(self, run: Run, task: ClusterTask, sink: Sink, history: History) -> None:
        self.name = run.name
        self.ended: Callable[[], object] = lambda: None
        """Called when it is over, which may be after the end of its cell."""
        self._run = run
        self._task = task
        self._sink = sink
        self._limits = tasks.limits_of(task)
        self._recorder = Recorder(run, history, self._limits, tasks.attempts_of(task))
        self._uploads = Uploads()
        self._began_s = monotonic_s()
        self._over = False
        self._following: Following | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stopped = False

    def to_its_end(self, inputs: Mapping[str, Any]) -> ReturnedValues | None:
        """Submit it, follow it, and return the results of the cell. Raises the error of the run, or `RefusedRunError`.

        An interrupt leaves it to `stop`, which was called before, to end it.
        """
        return background_loop.run_in_loop(self._follow(dict(inputs)))  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Abort it; returns at once."""
        self._stopped = True
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._stopping.set)

    def progress(self) -> Progress | None:
        """Return its phase, attempt and pod in words, and the memory of the pod; ``None`` when it is over."""
        if self._over:
            return None
        living = self._living()
        return Progress(
            run=self.name,
            task_name=self._run.task_name,
            elapsed_s=monotonic_s() - self._began_s,
            living=(living,),
            attempt=living.attempt,
            max_attempts=living.max_attempts,
            words=" · ".join(filter(None, self._words())),
            url=self._run.url,
        )

    def _attempt(self) -> AttemptFacts | None:
        """Return the newest attempt that the cluster has told of."""
        action = None if self._following is None else self._following.action
        return action.attempts[-1] if action is not None and action.attempts else None

    def _living(self) -> LiveAttempt:
        """Return the newest attempt as that of a local run, with the memory that its pod has reported last."""
        attempt, following = self._attempt(), self._following
        log = None if attempt is None or following is None else following.logs.get(attempt.number)
        return LiveAttempt(
            action=tasks.ROOT_ACTION,
            parent=None,
            task_name=self._run.task_name,
            attempt=1 if attempt is None else attempt.number,
            max_attempts=tasks.attempts_of(self._task),
            state=_STATES.get("" if attempt is None else attempt.phase, "queued"),
            usage_bytes=log.samples[-1][1] if log is not None and log.samples else 0,
            limit_bytes=self._limits.memory_bytes,
        )

    def _words(self) -> list[str]:
        following = self._following
        if self._stopped:
            return ["aborting"]
        if following is None:
            return [self._uploads.words or "being submitted"]
        if following.away_since_s is not None:
            return [f"the cluster gives no answer for {monotonic_s() - following.away_since_s:.0f} s, asking again"]
        action, attempt = following.action, self._attempt()
        if action is None:
            return ["submitted"]
        phase = action.phase if attempt is None else attempt.phase
        said = _PHASES.get(phase, phase.replace("_", " ").lower())
        if attempt is None:
            return [said]
        count = tasks.attempts_of(self._task)
        return [
            said,
            f"attempt {attempt.number} of {count}" if count > 1 else "",
            f"pod {attempt.pod}" if attempt.pod else "",
        ]

    async def _follow(self, inputs: dict[str, Any]) -> ReturnedValues | None:
        self._loop = asyncio.get_running_loop()
        if self._stopped:
            self._stopping.set()
        try:
            sent = await self._submitted(inputs)
            self._run.url = sent.url
            following = self._following = Following(sent.client, sent.action_id, self._say)
            await self._until_over(following)
            failure = await self._recorder.record(following)
            if failure is not None:
                raise failure.error
            return await self._results(following)
        except LostContactError as error:
            raise self._lost(error) from error
        finally:
            self._run.took_s = monotonic_s() - self._began_s
            self._over = True
            self.ended()

    async def _submitted(self, inputs: dict[str, Any]) -> submission.Submitted:
        """Submit it; raise `RunAbortedError` when it is to be stopped before the cluster has it."""
        used, to = submission.client(), initialization.target()
        sending = asyncio.create_task(submission.submit(self.name, self._task, inputs, self._uploads))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({sending, stop}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                return sending.result()
            sending.cancel()
            await asyncio.wait({sending})
            await submission.take_back(used, to, self.name, self._task)
            raise RunAbortedError("the cell was stopped before its run began on the cluster")
        finally:
            stop.cancel()

    async def _until_over(self, following: Following) -> ActionFacts:
        """Follow the run to its end, and abort it when it is to be stopped."""
        end = asyncio.create_task(following.to_its_end())
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                try:
                    await following.abort(STOPPED_HERE)
                except Exception as error:
                    raise LostContactError(f"it could not be told to abort the run: {one_line(str(error))}") from error
                await asyncio.wait({end}, timeout=ENDS_S)
                if not end.done():
                    raise LostContactError(f"it was told to abort the run, and did not say in {ENDS_S:g} s that it has")
            return end.result()
        finally:
            stop.cancel()
            end.cancel()

    def _say(self, text: str) -> None:
        self._sink.write("stdout", text)

    async def _results(self, following: Following) -> ReturnedValues | None:
        try:
            literals = await following.results()
        except Exception as error:
            raise UnreadableOutputsError(
                f"the cell has passed on the cluster, and its outputs cannot be read: {one_line(str(error))}"
            ) from error
        packed = literals[RESULT_NAME].scalar.binary.value if RESULT_NAME in literals else b""
        if not packed:
            return None
        outcome = CellOutcome.unpack(packed)
        if outcome.path is not None:
            try:
                outcome = outcome.moved(await fetched(outcome.path))
            except Exception as error:
                raise UnreadableOutputsError(
                    f"the cell has passed on the cluster, and its outputs ({format_memory(outcome.size_bytes)}) are in "
                    f"{outcome.path}, which cannot be read from here: {type(error).__name__}: {one_line(str(error))}; "
                    "give flyte.init a `storage` with the keys of that bucket, or return less than 2 MiB"
                ) from error
        return ReturnedValues(outcome, shared_namespace())

    def _lost(self, error: LostContactError) -> Exception:
        where = f" It may go on there: {self._run.url}" if self._run.url else ""
        message = f"the cluster was lost: {error}.{where}"
        lost: Exception = with_failure(RuntimeSystemError("Unavailable", message), self._run.task_name)
        return lost


def run_on_cluster(
    session: Session, run: Run, task: ClusterTask, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a cell's task as a begun run of a session; return the value of its last expression. Blocks; raises as above.

    Its results are added to the run.
    """
    relies.check()
    sink = session.sink()
    remote = ClusterRun(run, task, sink, session.history)
    remote.ended = session.begin_remote(run, remote, sink)
    values = remote.to_its_end({**dict(zip(task.native_interface.inputs, args, strict=False)), **kwargs})
    if values is None:
        return None
    session.take_outputs(run.name, values)
    return values.result
