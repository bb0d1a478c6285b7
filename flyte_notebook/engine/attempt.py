"""One attempt in a worker, on the kernel's side: send the job, receive the answers, collect the facts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flyte_notebook.core import private
from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.endings import Left
from flyte_notebook.core.outcome import Raised, WorkerReport
from flyte_notebook.core.reliance import Loss, losses
from flyte_notebook.core.trace import MemoryTrace, compact_sizes, compact_times
from flyte_notebook.engine import blobs, source_lines
from flyte_notebook.engine.around import at_start
from flyte_notebook.engine.link import SupervisorError
from flyte_notebook.engine.output_pump import Pump
from flyte_notebook.engine.request import opened, request
from flyte_notebook.engine.returning import Returning
from flyte_notebook.limiters import machine, shared_memory
from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from flyte_notebook.core.endings import Unanswered
    from flyte_notebook.core.job import Job, Surroundings
    from flyte_notebook.core.outcome import Outcome, Stage, Tripped
    from flyte_notebook.engine.link import Handle, SupervisorLink
    from flyte_notebook.engine.output_pump import Sink
    from flyte_notebook.engine.request import Start
    from flyte_notebook.history import Run

READY_BOUND_S = 120.0
"""How long a worker may take to start: the interpreter and the import of the SDK on a machine under load."""

END_BOUND_S = 10.0
"""How long the engine waits until the supervisor reports the end of an attempt that it has to stop."""

Call = dict[str, Any]


class Observer(Protocol):
    """Is called for every attempt of a run, on the engine's thread; must not block and must not raise."""

    def started(self, job: Job) -> None:
        """Report that an attempt was submitted."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Report the outcome of the attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that an attempt belongs to, and the notebook state that it was started from.

    This is the sink of its output, and the surroundings that its workers get from the notebook. ``before`` and
    ``after`` name functions (``module:function``) that each worker calls around its job.
    """

    run: Run
    sink: Sink
    surroundings: Surroundings
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    observer: Observer | None = None


class AttemptInWorker:
    """Runs one job in one worker. ``call`` runs the job of a nested task and returns the reply for the parent.

    ``start`` selects the kind of worker, see `flyte_notebook.engine.request.Start`.
    """

    def __init__(
        self,
        job: Job,
        origin: Origin,
        link: SupervisorLink,
        call: Callable[[Call], Awaitable[dict[str, Any]]],
        *,
        start: Start = "any",
    ) -> None:
        self._job = job
        self._origin = origin
        self._link = link
        self._call = call
        self._start = start
        self._request, self._set_later = request(job, origin.surroundings, link.session, start)
        self._children: dict[int, asyncio.Task[None]] = {}
        self._handle: Handle | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stage: Stage = "starting"
        self._returning: str | None = None
        self._answer: bytes | None = None
        self._raised: Raised | None = None
        self._stopped = False
        self._lost = self._unusable = ""
        self._answered: dict[str, Any] | None = None
        self._left = False
        self._watch: Returning | None = None
        self._unanswered: Unanswered | None = None
        self.ready_s: float | None = None
        """The monotonic time at which the worker was ready, ``None`` before that."""
        self.cut_short: WorkerReport | None = None
        """The facts of an attempt whose `run` was cancelled."""

    @property
    def usage_bytes(self) -> int:
        """The last reported usage of the attempt."""
        return self._handle.usage_bytes if self._handle is not None else 0

    def second_try(self, report: WorkerReport) -> Start | None:
        """Return how to run a job again whose worker ended before it was ready, ``None`` where that would not help.

        No code of the task has run. Either another program killed the worker (not a limit, the machine or this
        package), or the interpreter ended at its start, perhaps because of an environment variable that it reads.
        """
        ours = self._stopped or report.tripped is not None or report.oom_kills or report.machine_short
        if self.ready_s is not None or ours or self._start == "cautious":
            return None
        if report.signal == signal.SIGKILL:
            return "fresh"
        environ = self._request["environ"]
        return "cautious" if report.exit_status == 1 and at_start(environ, cautious=True)[0] != environ else None

    def stop(self) -> None:
        """Have the attempt killed; its report then says ``stopped``."""
        self._stopped = True
        self._link_stop()

    def _link_stop(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(SupervisorError):
                self._link.stop(self._handle)

    async def run(self) -> WorkerReport:
        """Run to the end and return the facts. When cancelled, kills the attempt first, then raises."""
        began_s = monotonic_s()
        ours, theirs, (out_read, out_write), (err_read, err_write) = opened()
        pump = Pump(self._origin.sink, {"stdout": out_read, "stderr": err_read})
        facts: dict[str, Any] = {}
        try:
            try:
                fds = [theirs.fileno(), out_write, err_write]
                self._handle = self._link.spawn(limits=self._job.limits, request=self._request, fds=fds)
            finally:
                theirs.close()
                os.close(out_write)
                os.close(err_write)
            if self._stopped:
                self.stop()
            await self._converse(ours, pump)
            facts = await self._end()
            if self._answered is None and facts.get("held"):  # it ended by itself, without a sign of failure
                facts["left"] = await asyncio.to_thread(shared_memory.clear, dict(facts["held"]))
            if self._answered is not None:
                self._answer = await blobs.unpacked(self._answered)
        except SupervisorError as error:
            self._lost = str(error)
        except BaseException:
            # Cancelled, or our side failed: the attempt must not be running afterwards.
            await self._end_now()
            ended = self._handle.ended if self._handle is not None else None
            if ended is not None and ended.done() and ended.exception() is None:
                facts = ended.result()
            self.cut_short = self._report(facts, pump.tail, monotonic_s() - began_s)
            raise
        finally:
            if self._watch is not None:
                self._watch.close()
            await self._end_children()
            await self._close(ours)
            pump.finish()
        return self._report(facts, pump.tail, monotonic_s() - began_s)

    async def _converse(self, ours: socket.socket, pump: Pump) -> None:
        """Serve the worker's channel until it ends, or until the worker reports that it will end."""
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._writer.write(protocol.frame(self._order()))  # it is in the channel when the worker starts
        try:
            ready = await asyncio.wait_for(protocol.receive_async(reader), READY_BOUND_S)
        except protocol.BrokenMessageError as error:
            self._give_up(f"the worker's channel broke: {error}")
            return
        except protocol.ChannelClosedError:
            return
        except TimeoutError:
            self._give_up(f"the worker was not ready after {READY_BOUND_S:.0f} s")
            return
        assert ready["kind"] == "ready"
        self.ready_s = monotonic_s()
        self._watch = Returning(ready["pid"], self._give_up_answer)
        self._arm()
        try:
            while not self._left:
                self._hear(await protocol.receive_async(reader), pump)
        except protocol.BrokenMessageError as error:
            self._give_up(f"the worker's channel broke: {error}")
        except protocol.ChannelClosedError:
            return
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._give_up(f"the worker's channel broke: a message that cannot be: {error!r}")

    def _give_up_answer(self, unanswered: Unanswered) -> None:
        """Have a worker killed that cannot answer; the facts that it has already sent are kept."""
        self._unanswered = unanswered
        if not self._stopped:
            self._link_stop()

    def _give_up(self, why: str) -> None:
        """Have an attempt killed that cannot be served any more; its report then says why, unless it was stopped."""
        if not self._stopped:
            self._lost = why
        self.stop()

    def _arm(self) -> None:
        assert self._handle is not None
        limits = self._job.limits
        deadline_in_s = None
        if limits.deadline_s is not None:
            deadline_in_s = max(0.0, self._job.queued_s + limits.deadline_s - monotonic_s())
        self._link.arm(self._handle, max_runtime_s=limits.max_runtime_s, deadline_in_s=deadline_in_s)

    def _order(self) -> dict[str, Any]:
        job, origin = self._job, self._origin
        return {
            "kind": "job",
            "payload": job.payload,
            "path": job.payload_path,
            "directory": self._link.directory,
            "environ": self._set_later,
            "keeps_children": self._link.enforcement.memory == "watchdog",
            "before": origin.before,
            "after": origin.after,
        }

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        with contextlib.suppress(OSError):
            self._writer.write(protocol.frame(message))
            await self._writer.drain()

    def _hear(self, message: dict[str, Any], pump: Pump) -> None:
        kind = message["kind"]
        if kind in {"stage", "step", "unanswered"}:
            self._hear_where(message)
        elif kind == "display":
            pump.show_now()
            self._origin.sink.display(message["message"])
        elif kind == "answer":
            self._stage, self._answered = "finished", {"data": message["data"], "path": message["path"]}
        elif kind == "bye":
            self._left = True
            if self._handle is not None:
                with contextlib.suppress(SupervisorError):
                    self._link.leave(self._handle, int(message["status"]))
        elif kind == "unusable":
            self._unusable = message["why"]
        elif kind == "raised":
            self._raised = message["raised"]
        elif kind == "lost":
            losses.put(message["loss"]["key"], Loss(**message["loss"]))
        elif kind in {"call", "cancel"}:
            self._hear_call(message)

    def _hear_where(self, message: dict[str, Any]) -> None:
        assert self._watch is not None
        if message["kind"] == "unanswered":
            self._watch.failed(message["step"])
        elif message["kind"] == "step":
            self._watch.at(message["step"])
        else:
            self._stage, self._returning = message["stage"], message["detail"]
            if self._stage == "returning":
                self._watch.at("pickling", self._returning)

    def _hear_call(self, message: dict[str, Any]) -> None:
        number = message["number"]
        if message["kind"] == "call":
            self._children[number] = asyncio.get_running_loop().create_task(self._serve(number, message))
        elif number in self._children:
            self._children[number].cancel()

    async def _serve(self, number: int, request: Call) -> None:
        try:
            reply = await self._call(request)
            await self._send({**reply, "number": number})
        except Exception as error:  # noqa: BLE001 - on any error: else the caller would wait for ever
            why = error if isinstance(error, OSError) else repr(error)
            self._give_up(f"a call of another task could not be served: {why}")
        finally:
            self._children.pop(number, None)

    async def _end_children(self) -> None:
        children = list(self._children.values())
        for child in children:
            child.cancel()
        if children:
            await asyncio.gather(*children, return_exceptions=True)

    async def _end(self) -> dict[str, Any]:
        """Wait for the end of an attempt whose channel has closed, kill it when it takes too long; return the facts."""
        assert self._handle is not None
        done, _ = await asyncio.wait({self._handle.ended}, timeout=END_BOUND_S)
        if not done:
            self._give_up("the worker closed its channel and went on")
            await asyncio.wait({self._handle.ended}, timeout=END_BOUND_S)
        if not self._handle.ended.done():
            raise SupervisorError("the supervisor did not report the end of the attempt")
        return self._handle.ended.result()

    async def _end_now(self) -> None:
        self.stop()
        if self._handle is not None:
            # The attempt must have ended when this returns: a second cancel must not cut this short either.
            ended = asyncio.ensure_future(asyncio.wait({self._handle.ended}, timeout=END_BOUND_S))
            while not ended.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(ended)

    async def _close(self, ours: socket.socket) -> None:
        if self._answered is not None and self._answered["path"] is not None:
            with contextlib.suppress(OSError):  # it was removed when it was read
                private.remove(self._answered["path"])
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._writer.wait_closed()
        ours.close()

    def _report(self, facts: dict[str, Any], tail: str, duration_s: float) -> WorkerReport:
        tripped: Tripped | None = facts.get("tripped")
        lost = self._unusable or self._lost or facts.get("lost", "")
        if tripped is None and self._stopped:
            tripped = "stopped"
        unanswered = None if self._stopped else self._unanswered
        if tripped == "stopped" and (lost or unanswered is not None):
            tripped = None  # we ended it because it was lost
        if self._answer is not None and tripped != "memory":
            tripped = None  # it was done before the stop arrived
        killed = facts.get("signal") == signal.SIGKILL
        return WorkerReport(
            answer=self._answer,
            raised=self._raised,
            exit_status=None if self._unusable else facts.get("exit_status"),
            signal=facts.get("signal"),
            tripped=tripped,
            tripped_detail=lost,
            oom_kills=facts.get("oom_kills", 0),
            limit_reached=facts.get("limit_reached", False),
            machine_short=bool(killed and tripped is None and facts.get("machine_oom_kills", 0)),
            stage=self._stage,
            returning=self._returning,
            trace=_trace(self._job, facts),
            enforcement=self._link.enforcement,
            output_tail=tail,
            duration_s=facts.get("duration_s", duration_s),
            ready_after_s=facts.get("ready_after_s"),
            last_line=source_lines.last_line(facts),
            grew=source_lines.grew(facts),
            no_line=facts.get("no_line", ""),
            asked=source_lines.asked(facts),
            unanswered=unanswered,
            left=tuple(Left(**left) for left in facts.get("left", ())),
            machine_bytes=machine.capacity_bytes() if tripped == "memory" or facts.get("oom_kills") else None,
        )


def _trace(job: Job, facts: dict[str, Any]) -> MemoryTrace:
    return MemoryTrace(
        times_s=compact_times(facts.get("times_s", ())),
        memory_bytes=compact_sizes(facts.get("memory_bytes", ())),
        limit_bytes=job.limits.memory_bytes,
        baseline_bytes=facts.get("baseline_bytes"),
        peak_bytes=facts.get("peak_bytes"),
        peak_source=facts.get("peak_source", "samples"),
        page_cache_bytes=facts.get("page_cache_bytes", 0),
    )
