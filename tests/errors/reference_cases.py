"""How each error of the published reference is raised in a notebook, and what is to arrive there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

LOAD: Final = """%load_ext flyte_notebook
import asyncio, os, tempfile, time, traceback
import flyte, flyte.errors
import flyte_notebook as fn
from flyte_notebook import errors as names

flyte.init()
env = flyte.TaskEnvironment(name="reference", resources=flyte.Resources(cpu=1, memory="250Mi"))
precious = {"rows": [1, 2, 3]}
ended = []
get_ipython().events.register("post_run_cell", lambda result: ended.append(result.error_in_exec))


def as_a_cluster_says(kind, code, message):
    from flyte._internal.runtime.convert import convert_error_to_native
    from flyteidl2.core import execution_pb2

    name = os.environ["FLYTE_NOTEBOOK_ATTEMPT"]
    kind = getattr(execution_pb2.ExecutionError, kind)
    raise convert_error_to_native(execution_pb2.ExecutionError(kind=kind, code=code, message=message.format(NAME=name)))


def facts(promised):
    error = ended[-1]
    failure = getattr(error, "failure", None)
    causes, cause = [], error.__cause__
    while cause is not None:
        causes.append(type(cause).__name__)
        cause = cause.__cause__
    return {
        "class": type(error).__name__,
        "promised": isinstance(error, getattr(names, promised)),
        "kind": getattr(error, "kind", None),
        "code": getattr(error, "code", None),
        "worker": getattr(error, "worker", None),
        "message": str(error),
        "causes": causes,
        "shown": "".join(traceback.format_exception(error)),
        "failure": failure and (type(failure.error).__name__, failure.kind, failure.code, failure.worker),
        "same": failure is not None and failure.error is error,
        "wire_code": failure and failure.wire_code,
        "note": failure and failure.note,
    }
"""
"""The first cell of the notebook."""

CONTROL_PLANE: Final = "only a control plane's answer raises it"
PODS: Final = "only a cluster has pods and images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One error of the reference.

    ``act`` is the cell, ``simulated`` why it cannot come by itself ("" when it does). ``by_internals``: the SDK raises
    it, but not in anything that a user would write in a notebook. ``kind`` and ``code`` are
    ``None`` for a class that has none. ``message`` is a regular expression for the whole text. ``line`` is the user's
    line that the traceback must show. ``interrupt_after`` is what the cell prints when it is to be interrupted.
    ``again`` tells
    a second case of a class from its first. ``is_promised``: what arrives is of the promised class.
    """

    promised: str
    how: str
    act: str
    message: str
    arrives: str = ""
    kind: str | None = "user"
    code: str | None = ""
    semantics: str = "cluster"
    simulated: str = ""
    by_internals: bool = False
    in_task: bool = True
    line: str = ""
    interrupt_after: str | None = None
    again: str = ""
    is_promised: bool = True

    @property
    def name(self) -> str:
        """Return the name for the test and for the table."""
        return self.promised + (f"-{self.again}" if self.again else "")

    @property
    def class_name(self) -> str:
        """Return the class that arrives."""
        return self.arrives or self.promised


def task(body: str, settings: str = "") -> str:
    """Return a cell that defines a task and runs it."""
    decorator = f"@env.task({settings})" if settings else "@env.task"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{decorator}\nasync def step():\n{lines}\nflyte.run(step)"


def from_cluster(kind: str, code: str, message: str) -> str:
    """Return a cell whose task raises what the SDK makes of a cluster's words; ``{NAME}`` is the attempt's name."""
    return task(f"as_a_cluster_says({kind!r}, {code!r}, {message!r})")


NAME: Final = r"[\w-]+-a0-\d"
TWICE: Final = "retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=__import__('datetime').timedelta(0)))"
BACK_OFF: Final = (
    'Grace period [3m0s] exceeded|containers with unready status: [{NAME}]|Back-off pulling image "registry/none:1"'
)
BAD_NAME: Final = (
    'containers with unready status: [{NAME}]|Failed to apply default image tag "No Image": invalid reference format'
)
PACKAGE: Final = """import pathlib
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "broken_etl.py").write_text("import pandas_of_nowhere")
from flyte._utils.module_loader import load_python_modules
import sys
sys.path.insert(0, str(folder))
try:
    load_python_modules(folder / "broken_etl.py", folder)
finally:
    sys.path.remove(str(folder))"""

_CASES: Final = (
    Case(
        promised="OOMError",
        how="a task takes 600 MB under a limit of 250Mi",
        act=task("return len(b'x' * 600_000_000)"),
        code="OOMKilled",
        message=rf"Pod failed\. No message received from kubernetes\.\n\[{NAME}\] terminated with exit code \(137\)\. "
        r"Reason \[OOMKilled\]\. Message: ",
    ),
    Case(
        promised="RuntimeUserError",
        how="a task raises ValueError",
        act=task("raise ValueError('no such row')"),
        code="ValueError",
        message="no such row",
        line="raise ValueError('no such row')",
    ),
    Case(
        promised="RuntimeSystemError",
        how="a task's process ends by a segmentation fault",
        act=task("import ctypes\nctypes.string_at(0)"),
        kind="system",
        code="Interrupted",
        message=rf"Pod failed\. No message received from kubernetes\.\n\[{NAME}\] terminated with exit code \(139\)\. "
        r"Reason \[Error\]\. Message: ",
    ),
    Case(
        promised="RuntimeUnknownError",
        how="a cluster reports a failure of unknown kind",
        act=from_cluster("UNKNOWN", "Unknown", "no reason was given"),
        kind="unknown",
        code="Unknown",
        message="no reason was given",
        simulated="what ends a process is always known here",
        line="as_a_cluster_says",
    ),
    Case(
        promised="BaseRuntimeError",
        how="raised by hand in a task",
        act=task("raise flyte.errors.BaseRuntimeError('Odd', 'user', 'the base itself', None)"),
        code="Odd",
        message="the base itself",
        simulated="every error that comes by itself is one of its subclasses",
        line="raise flyte.errors.BaseRuntimeError",
    ),
    Case(
        promised="RuntimeDataValidationError",
        how="a task gets a str where it declares an int",
        act="@env.task\nasync def step(count: int) -> int:\n    return count\n\nflyte.run(step, count='three')",
        code="DataValidationError",
        message=r"In task reference\.step variable count, failed to (?s:.+)",
        in_task=False,
    ),
    Case(
        promised="RuntimeDataValidationError",
        again="output",
        how="a task returns a str where it declares an int",
        act="@env.task\nasync def step() -> int:\n    return 'three'\n\nflyte.run(step)",
        code="DataValidationError",
        message=r"In task reference\.step variable o0, failed to (?s:.+)",
    ),
    Case(
        promised="TaskTimeoutError",
        how="a task runs longer than its timeout of 1 s",
        act=task("await asyncio.sleep(30)", "timeout=1"),
        code="TaskTimeoutError",
        semantics="reference",
        message=r"Action a0 timed out: ran longer than its max_runtime of 1 s and was stopped after .+",
    ),
    Case(
        promised="TaskTimeoutError",
        arrives="MaxRuntimeExceededError",
        again="by default",
        how="a task runs longer than its timeout of 1 s",
        act=task("await asyncio.sleep(30)", "timeout=1"),
        code="MaxRuntimeExceededError",
        message=r"Action a0 timed out: ran longer than its max_runtime of 1 s and was stopped after .+",
    ),
    Case(
        promised="TaskInterruptedError",
        how="a task's process is killed from outside",
        act=task("os.kill(os.getpid(), 15)\nawait asyncio.sleep(30)"),
        code="Interrupted",
        semantics="reference",
        message=rf"Pod failed\. No message received from kubernetes\.\n\[{NAME}\] terminated with exit code \(143\)\. "
        r"Reason \[Error\]\. Message: ",
    ),
    Case(
        promised="RetriesExhaustedError",
        how="both attempts of a task raise ValueError",
        act=task("raise ValueError('no answer')", TWICE),
        code="RetriesExhausted|ValueError",
        semantics="reference",
        message=r"\[2/2\] currentAttempt done\. Last Error: USER::no answer",
        line="raise ValueError('no answer')",
    ),
    Case(
        promised="CustomError",
        how="a task raises CustomError",
        act=task("raise flyte.errors.CustomError('TableEmpty', 'nothing to summarise')"),
        code="TableEmpty",
        semantics="reference",
        message="nothing to summarise",
        line="raise flyte.errors.CustomError",
    ),
    Case(
        promised="RunAbortedError",
        arrives="ActionAbortedError",
        how="a cell that is a task is interrupted",
        act="%%flyte_task\nimport time\nprint('waiting', flush=True)\ntime.sleep(60)",
        code="ActionAbortedError",
        message="Action a0 was aborted",
        interrupt_after="waiting",
    ),
    Case(
        promised="InlineIOMaxBytesBreached",
        how="a task returns 50 kB inline, above its bound of 10 kB",
        act="@env.task(max_inline_io_bytes=10_000)\nasync def step() -> str:\n    return 'x' * 50_000\n\n"
        "flyte.run(step)",
        code="InlineIOMaxBytesBreached",
        message=r"the output `o0` of task reference\.step has .+, above max_inline_io_bytes=10000 .+",
    ),
    Case(
        promised="OnlyAsyncIOSupportedError",
        how="a task opens a file asynchronously on storage that cannot",
        act=task(
            "import flyte.storage\nfile = await flyte.storage.open('memory://reference/a.txt', 'wb')\n"
            "await file.write(b'a')"
        ),
        code="OnlyAsyncIOSupportedError",
        message=".+",
        line="flyte.storage.open",
    ),
    Case(
        promised="NotInTaskContextError",
        how="the record of a trace is asked for outside of a task",
        act="from flyte._internal.controllers import create_controller\n"
        "from flyte.models import NativeInterface\n"
        "await create_controller('local').get_action_outputs(NativeInterface({}, {}), print)",
        code="BadContext",
        message="Task context not initialized",
        by_internals=True,
        in_task=False,
    ),
    Case(
        promised="InitializationError",
        how="a configuration file that does not exist is asked for",
        act="flyte.init_from_config('no-such-config.yaml')",
        code="ConfigFileNotFoundError",
        message=r"(?s).*no-such-config\.yaml.*",
        in_task=False,
    ),
    Case(
        promised="ModuleLoadError",
        how="the SDK's loader reads a file whose import fails",
        act=PACKAGE,
        code="ModuleLoadError",
        message=r"Failed to load .+broken_etl\.py: ModuleNotFoundError: No module named 'pandas_of_nowhere'",
        by_internals=True,
        in_task=False,
    ),
    Case(
        promised="DeploymentError",
        how="a deployment without code and without a version is asked for",
        act="deployed = flyte.TaskEnvironment(name='deployed', image='python:3.12')\n"
        "@deployed.task\nasync def load() -> str:\n    return 'loaded'\n\n"
        "flyte.deploy(deployed, copy_style='none')",
        code="DeploymentError",
        message=".+",
        in_task=False,
    ),
    Case(
        promised="ImageBuildError",
        how="an image without a base is asked for",
        act="flyte.Image.from_base('').uri",
        code="ImageBuildError",
        message="(?s).+",
        in_task=False,
    ),
    Case(
        promised="InvalidImageNameError",
        how="images are built, and one has a name that no configuration has",
        act="named = flyte.TaskEnvironment(name='named', image=flyte.Image.from_ref_name('no-such-name'))\n"
        "flyte.build_images(named)",
        code="InvalidImageName",
        message="(?s).*no-such-name.*",
        in_task=False,
    ),
    Case(
        promised="InvalidImageNameError",
        again="on a node",
        how="a node cannot make sense of the image's name",
        act=from_cluster("USER", "ContainersNotReady|InvalidImageName", BAD_NAME),
        code="InvalidImageName",
        message=rf"containers with unready status: \[{NAME}\]\|Failed to apply default image tag .+",
        simulated=PODS,
        line="as_a_cluster_says",
    ),
    Case(
        promised="ImagePullBackOffError",
        how="a node cannot pull the image",
        act=from_cluster("USER", "ContainersNotReady|ImagePullBackOff", BACK_OFF),
        code="ImagePullBackOff",
        message=rf"Grace period \[3m0s\] exceeded\|containers with unready status: \[{NAME}\]\|"
        r'Back-off pulling image "registry/none:1"',
        simulated=PODS,
        line="as_a_cluster_says",
    ),
    Case(
        promised="PrimaryContainerNotFoundError",
        how="a pod has no container of the primary one's name",
        act=from_cluster(
            "USER", "PrimaryContainerNotFound", "Primary container [main] not found in pod's container statuses"
        ),
        code="PrimaryContainerNotFound",
        message=r"Primary container \[main\] not found in pod's container statuses",
        simulated=PODS,
        line="as_a_cluster_says",
    ),
    Case(
        promised="ReferenceTaskError",
        arrives="RemoteTaskUsageError",
        how="a deployed task is called in a local run",
        act="from types import SimpleNamespace\nfrom flyte._internal.controllers import create_controller\n"
        "await create_controller('local').submit_task_ref(SimpleNamespace(name='etl.load'), 100)",
        code="RemoteTaskUsageError",
        message="Remote tasks cannot be executed locally, only remotely. Found remote task etl.load",
        simulated="getting a deployed task needs a control plane; a stand-in has its name",
        in_task=False,
    ),
    *(
        Case(
            promised=promised,
            how="raised by hand in a task",
            act=task(f"raise flyte.errors.{promised}({arguments})"),
            code=code,
            message=".+",
            kind=kind,
            simulated=CONTROL_PLANE,
            line=f"raise flyte.errors.{promised}",
        )
        for promised, arguments, kind, code in (
            ("UnionRpcError", "'UNAVAILABLE', 'no connection to the server'", "system", "UNAVAILABLE"),
            ("SlowDownError", "'the server has too much to do'", "user", "SlowDownError"),
            ("LogsNotYetAvailableError", "'Log stream not available for action a0'", "system", "LogsNotYetAvailable"),
            ("ActionNotFoundError", "'there is no action a7 in this run'", None, None),
        )
    ),
)

UNKNOWN_TO_THE_CONVERSION: Final = {
    "BaseRuntimeError": ("RuntimeUserError", "user", "BaseRuntimeError"),
    "RuntimeDataValidationError-output": ("RuntimeUserError", "user", "DataValidationError"),
    "InlineIOMaxBytesBreached": ("RuntimeUserError", "user", "InlineIOMaxBytesBreached"),
    "OnlyAsyncIOSupportedError": ("RuntimeUserError", "user", "OnlyAsyncIOSupportedError"),
    "UnionRpcError": ("RuntimeSystemError", "system", "UNAVAILABLE"),
    "SlowDownError": ("RuntimeUserError", "user", "SlowDownError"),
    "LogsNotYetAvailableError": ("RuntimeUserError", "user", "LogsNotYetAvailableError"),
    "ActionNotFoundError": ("RuntimeUserError", "user", "ActionNotFoundError"),
}
"""Classes that the SDK's own conversion does not know, by case: class, kind and code of what a cluster makes of it."""


def _in_both(case: Case) -> tuple[Case, ...]:
    """Return a case as it is, or both with the semantics of the reference and with those of a cluster."""
    if case.name not in UNKNOWN_TO_THE_CONVERSION:
        return (case,)
    arrives, kind, code = UNKNOWN_TO_THE_CONVERSION[case.name]
    again = " ".join(filter(None, [case.again, "by default"]))
    default = replace(
        case, arrives=arrives, kind=kind, code=code, again=again, is_promised=case.promised == "BaseRuntimeError"
    )
    return replace(case, semantics="reference"), default


CASES: Final = tuple(each for case in _CASES for each in _in_both(case))
"""In the order of what ends a run, what is asked of the SDK, and what only a cluster says."""
