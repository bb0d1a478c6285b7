"""The life of an action: it waits, gets pods until one succeeds or none is left, and ends in one of four phases.

Errors look as the backend's Kubernetes plugin writes them. A pod is deleted before the next attempt begins.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

from flyteidl2.core import execution_pb2, tasks_pb2
from flyteidl2.workflow import run_definition_pb2 as definition_pb2

from . import bucket as buckets
from .pods import Ending, Pod
from .records import (
    ABORTED,
    CONTAINER,
    FAILED,
    INITIALIZING,
    NAMESPACE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    SYSTEM,
    TIMED_OUT,
    USER,
    WAITING,
    Action,
    Attempt,
)

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.duration_pb2 import Duration

    from .bucket import Bucket
    from .faults import Faults
    from .image import Image
    from .pods import Groups

ORGANISATION = "loopback"
SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Failed(NamedTuple):
    """Why an attempt did not succeed, and whether another one may."""

    error: definition_pb2.ErrorInfo
    retry: bool = True
    phase: int = FAILED


class Kubelet:
    """Runs actions. All that is shared by them is here."""

    def __init__(self, *, image: Image, groups: Groups, bucket: Bucket, faults: Faults, place: Path) -> None:
        self._image, self._groups, self._bucket = image, groups, bucket
        self._faults = faults
        self._place = place
        self.endpoint = ""
        """Where pods reach the plane."""
        self.use_actions = True
        """Which of the two pairs of services pods use to start others."""

    def begin(self, action: Action) -> None:
        """Let an action live."""
        action.life = asyncio.create_task(self._live(action), name=f"{action.run.id.name}.{action.name}")

    def abort(self, action: Action, reason: str) -> None:
        """End an action and all that it started."""
        for one in (action, *action.run.below(action)):
            if not one.done and one.abort_reason is None:
                one.abort_reason = reason
                if one.life is not None:
                    one.life.cancel()

    async def close(self, actions: list[Action]) -> None:
        """End everything."""
        lives = [action.life for action in actions if action.life is not None and not action.life.done()]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    async def _live(self, action: Action) -> None:
        assert action.spec is not None
        metadata = action.spec.task_template.metadata
        deadline = asyncio.timeout(_seconds(metadata.timeouts.deadline))
        try:
            async with deadline:
                phase, error = await self._attempts(action, 1 + metadata.retries.retries)
        except TimeoutError:
            assert deadline.expired()
            phase, error = TIMED_OUT, _timed_out("DEADLINE_EXCEEDED", "its deadline", metadata.timeouts.deadline)
        except asyncio.CancelledError:
            phase, error = ABORTED, None
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with the plane, a test must not wait for it
            traceback.print_exc()
            error = definition_pb2.ErrorInfo(message=repr(problem), kind=SYSTEM, code="PlaneFailed")
            phase = FAILED
        self._end(action, phase, error)

    def _end(self, action: Action, phase: int, error: definition_pb2.ErrorInfo | None) -> None:
        now = time.time()
        late = self._faults.details_late_s if error is not None else 0.0
        action.error, action.error_seen_s = error, now + late
        if action.attempts:
            self._to(action, action.attempts[-1], phase)
            action.attempts[-1].end_s, action.attempts[-1].error = now, error
        action.phase, action.end_s = phase, now
        for child in action.run.below(action):
            self.abort(child, f"{action.name} has ended")
        action.run.touch()
        if late:
            asyncio.get_running_loop().call_later(late + 0.01, action.run.touch)

    async def _attempts(self, action: Action, most: int) -> tuple[int, definition_pb2.ErrorInfo | None]:
        for number in range(1, most + 1):
            attempt = Attempt(number, f"{action.run.id.name}-{action.name}-{number - 1}")
            action.attempts.append(attempt)
            failed = await self._attempt(action, attempt)
            if failed is None:
                return SUCCEEDED, None
            if not failed.retry or number == most:
                return failed.phase, failed.error
            attempt.event("Killing", f"Stopping container {CONTAINER}")
            self._to(action, attempt, failed.phase)
            attempt.error, attempt.end_s = failed.error, time.time()
            attempt.deleted = True
        raise AssertionError("an action has at least one attempt")

    async def _attempt(self, action: Action, attempt: Attempt) -> Failed | None:
        """Run one pod and say why it failed; ``None`` when it did not."""
        assert action.spec is not None
        container, metadata = action.spec.task_template.container, action.spec.task_template.metadata
        memory = memory_bytes(container.resources)
        try:
            async with asyncio.timeout(_seconds(metadata.timeouts.queued_timeout)):
                await self._schedule(action, attempt, memory)
        except TimeoutError:
            bound = metadata.timeouts.queued_timeout
            return Failed(_timed_out("QUEUED_TIMEOUT_EXCEEDED", "its time in the queue", bound), phase=TIMED_OUT)
        self._to(action, attempt, INITIALIZING)
        attempt.event("Pulling", f'Pulling image "{container.image}"')
        if container.image in self._faults.missing_images:
            attempt.event("BackOff", f'Back-off pulling image "{container.image}"', warning=True)
            return Failed(_pull_failed(container.image), retry=False)
        attempt.event("Pulled", f'Container image "{container.image}" is present')
        attempt.event("Started", f"Started container {CONTAINER}")
        self._to(action, attempt, RUNNING)
        pod = Pod(self._image, self._groups, self._place / attempt.pod, attempt.log)
        command = [*container.command, *(self._filled(word, action, attempt) for word in container.args)]
        try:
            async with asyncio.timeout(_seconds(metadata.timeout)):
                ending = await pod.run(command, self._environment(action), memory)
        except TimeoutError:
            error = _timed_out("MAX_RUNTIME_EXCEEDED", "its longest run time", metadata.timeout)
            return Failed(error, phase=TIMED_OUT)
        return self._judge(action, attempt, ending)

    async def _schedule(self, action: Action, attempt: Attempt, memory: int | None) -> None:
        self._to(action, attempt, QUEUED)
        await asyncio.sleep(0)
        self._to(action, attempt, WAITING)
        told = False
        while (most := self._faults.memory_bytes) is not None and (memory or 0) > most:
            if not told:
                attempt.event("FailedScheduling", "0/1 nodes are available: 1 Insufficient memory.", warning=True)
                action.run.touch()
                told = True
            await asyncio.sleep(0.05)
        attempt.event("Scheduled", f"Successfully assigned {NAMESPACE}/{attempt.pod} to loopback-node")

    def _to(self, action: Action, attempt: Attempt, phase: int) -> None:
        attempt.phases.append((phase, time.time()))
        action.phase = phase if phase not in {FAILED, TIMED_OUT} else action.phase
        action.run.touch()

    def _judge(self, action: Action, attempt: Attempt, ending: Ending) -> Failed | None:
        """Say what the end of a pod means."""
        if ending.exit_code != 0:
            reason = "OOMKilled" if ending.oom_killed else "Error"
            text = f"[{CONTAINER}] terminated with exit code ({ending.exit_code}). Reason [{reason}]. Message: \n"
            message = f"{text}{attempt.log.tail()}."
            return Failed(definition_pb2.ErrorInfo(message=message, kind=USER, code=reason))
        content = self._bucket.read(f"{action.prefix}/{attempt.number}/error.pb")
        if content is not None:
            error = execution_pb2.ErrorDocument.FromString(content).error
            kind = SYSTEM if error.origin == execution_pb2.ExecutionError.SYSTEM else USER
            info = definition_pb2.ErrorInfo(message=error.message, kind=kind, code=error.code)
            return Failed(info, retry=error.kind == execution_pb2.ContainerError.RECOVERABLE)
        return None

    def _filled(self, word: str, action: Action, attempt: Attempt) -> str:
        """Replace what the backend does in the arguments of a container."""
        prefix = f"{action.prefix}/{attempt.number}"
        previous = f"{action.prefix}/{attempt.number - 1}/checkpoint" if attempt.number > 1 else ""
        values = {
            "input": action.input_uri,
            "outputPrefix": prefix,
            "rawOutputDataPrefix": f"{prefix}/raw",
            "checkpointOutputPrefix": f"{prefix}/checkpoint",
            "prevCheckpointPrefix": previous,
            "runName": action.run.id.name,
            "actionName": action.name,
            "podName": attempt.pod,
            "runStartTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(action.run.root.start_s)),
        }
        for name, value in values.items():
            word = word.replace("{{." + name + "}}", value)
        return word

    def _environment(self, action: Action) -> dict[str, str]:
        assert action.spec is not None
        run = action.run
        given = {one.key: one.value for one in action.spec.task_template.container.env}
        given |= {one.key: one.value for one in run.spec.envs.values}
        return {
            "FLYTE_AWS_ENDPOINT": self.endpoint,
            "FLYTE_AWS_ACCESS_KEY_ID": buckets.ACCESS_KEY,
            "FLYTE_AWS_SECRET_ACCESS_KEY": buckets.SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "FLYTE_DISABLE_TELEMETRY": "1",
            **given,
            "ACTION_NAME": action.name,
            "RUN_NAME": run.id.name,
            "FLYTE_INTERNAL_EXECUTION_PROJECT": run.id.project,
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": run.id.domain,
            "_U_ORG_NAME": run.id.org or ORGANISATION,
            "_U_RUN_BASE": run.base,
            "_U_EP_OVERRIDE": self.endpoint,
            "_U_INSECURE": "true",
            "_U_USE_ACTIONS": "1" if self.use_actions else "0",
        }


def memory_bytes(resources: tasks_pb2.Resources) -> int | None:
    """Return the memory that a container has: what it requests is what it may use."""
    for entry in (*resources.limits, *resources.requests):
        if entry.name == tasks_pb2.Resources.MEMORY and entry.value:
            number = entry.value.rstrip("KMGTik")
            return int(float(number) * SIZES.get(entry.value[len(number) :], 1))
    return None


def _seconds(bound: Duration) -> float | None:
    """Return a bound in time; zero means that there is none."""
    return bound.ToTimedelta().total_seconds() or None


def _timed_out(code: str, what: str, bound: Duration) -> definition_pb2.ErrorInfo:
    message = f"the action was ended after {what} of {bound.ToTimedelta().total_seconds():g} s"
    return definition_pb2.ErrorInfo(message=message, kind=USER, code=code)


def _pull_failed(image: str) -> definition_pb2.ErrorInfo:
    message = f'containers with unready status: [{CONTAINER}]|Back-off pulling image "{image}": ErrImagePull: not found'
    return definition_pb2.ErrorInfo(message=message, kind=USER, code="ContainersNotReady|ImagePullBackOff")
