"""Texts about refusals of a control plane, a registry or a device."""

from __future__ import annotations

from typing import Final

from flyte_notebook.catalogue.explanation import Words, real_words
from flyte_notebook.catalogue.recipes import by_hand, by_hand_in_a_run, in_this_process

_NO_CLUSTER: Final = "Not by itself: there is no control plane in a local run. A run on a cluster gets it as above."
_NO_GPU: Final = (
    "Not by itself: nothing watches the GPUs of this machine for faults. A task here sees what its library raises."
)
_NO_DEVBOX: Final = "Not by itself: local runs use what is installed here and start nothing on a Mac's behalf."
_XID: Final = '"GpuXidError", "Xid 31", fault_kind="xid", fault_code=31'
_ECC: Final = '"GpuEccUncorrectable", "uncorrectable ECC error", severity="critical"'

CONTROL_PLANE: Final[dict[str, Words]] = {
    "InitializationError": real_words(
        meaning="Something that needs `flyte.init()` or a cluster was called before that, or the settings for a "
        "cluster are missing or incomplete.",
        kind="user",
        codes=(
            *("ClientNotInitializedError", "StorageNotInitializedError", "NotInitConfiguredError"),
            *("ConfigFileNotFoundError", "MissingEndpointOrApiKeyError", "MissingApiKeyError"),
        ),
        on_cluster="At the call, in your own process: `flyte.remote`, `flyte.deploy`, a run with mode `remote`.",
        here="The same, in the notebook's own process, also for `flyte.io.File.from_local`: call `flyte.init()` first. "
        "In a task nothing has to be initialised, as in a pod.",
        recover=in_this_process(
            "InitializationError",
            attempt='flyte.init_from_config("no-such-config.yaml")',
            recover="flyte.init()  # local runs need no endpoint",
        ),
        prevent="For files and local runs call `flyte.init()` once, at the top; before anything remote call "
        "`flyte.init_from_config(...)` or `flyte.init(endpoint=...)`.",
        related=("UnionRpcError", "DeploymentError", "NotInTaskContextError"),
    ),
    "UnionRpcError": Words(
        meaning="Communication with the server failed.",
        codes=("UNAVAILABLE",),
        on_cluster="The SDK defines this class and raises it nowhere (2.12.1): calls that fail raise the ConnectError "
        "of its RPC library, or RuntimeSystemError. Older versions raised it.",
        here=_NO_CLUSTER,
        recover=by_hand(
            "UnionRpcError",
            '"UNAVAILABLE", "no connection to the server"',
            doing="list_runs",
            recover='print("wait a little and ask again; the run itself goes on")',
        ),
        prevent="Check endpoint and network; for a script that runs for long, try again after a pause.",
        related=("RuntimeSystemError", "SlowDownError", "InitializationError"),
    ),
    "SlowDownError": Words(
        meaning="The server asks for patience: it has too much to do, or could not be reached for a moment.",
        on_cluster="Inside the controller of a running task, which waits and tries again by itself. When it gives up "
        "the action fails with RuntimeSystemError, whose code is this class's name.",
        here=_NO_CLUSTER,
        recover=by_hand(
            "SlowDownError",
            '"the server has too much to do"',
            doing="launch",
            recover='print("wait, then launch again, fewer at a time")',
        ),
        prevent="Start fewer actions at a time, for example `flyte.map(..., concurrency=20)`.",
        related=("ResourceExhaustedError", "UnionRpcError", "RuntimeSystemError"),
    ),
    "ResourceExhaustedError": Words(
        meaning="The server refuses more for now: a quota or a limit on its side is used up.",
        on_cluster="Inside the controller of a running task, which waits and tries again for as long as it takes.",
        here=_NO_CLUSTER,
        recover=by_hand(
            "ResourceExhaustedError",
            '"too many actions at a time"',
            doing="launch",
            recover='print("wait, then launch again, fewer at a time")',
        ),
        prevent="Start fewer actions at a time, or ask for a larger quota.",
        related=("SlowDownError", "UnionRpcError"),
    ),
    "RemoteTaskNotFoundError": Words(
        meaning="No deployed task has that name (and version) in that project and domain.",
        on_cluster="When a task from `flyte.remote.Task.get(...)` is fetched, at the latest when it is called.",
        here="Not by itself: looking for a deployed task needs a control plane; without one it is InitializationError.",
        recover=by_hand(
            "RemoteTaskNotFoundError",
            '"Task etl.load, version 7 not found"',
            doing="fetch",
            recover="print('take the newest one: flyte.remote.Task.get(name, auto_version=\"latest\")')",
        ),
        prevent="Deploy first; check name, version, project and domain.",
        related=("RemoteTaskUsageError", "InitializationError", "ReferenceTaskError"),
    ),
    "RemoteTaskUsageError": Words(
        meaning="A deployed task was used in a way that deployed tasks do not allow.",
        on_cluster="When it is called with positional arguments, or overridden with settings that it does not have.",
        here="When a deployed task is called in a local run: it can run only remotely. Getting one needs a control "
        "plane.",
        recover=by_hand(
            "RemoteTaskUsageError",
            '"Remote task etl.load does not support positional arguments"',
            doing="call_by_position",
            recover='print("call it with keyword arguments: await load(path=...)")',
        ),
        prevent="Call deployed tasks with keyword arguments, from a run on the cluster.",
        related=("RemoteTaskNotFoundError", "ReferenceTaskError"),
    ),
    "LogsNotYetAvailableError": Words(
        meaning="The logs of an action or an app cannot be read yet; most often it has not started.",
        on_cluster="When logs are followed and, after several tries, there are still none.",
        here=_NO_CLUSTER + " Output of local tasks appears as it is written.",
        recover=by_hand(
            "LogsNotYetAvailableError",
            '"Log stream not available for action a0"',
            doing="show_logs",
            recover='print("wait until the action runs, then ask again")',
        ),
        prevent="Wait for the action to run before reading its logs.",
        related=("ActionNotFoundError", "UnionRpcError"),
    ),
    "ParameterMaterializationError": Words(
        meaning="A parameter of an app stands for something made later (the output of a run, an artifact), and that "
        "could not be had.",
        on_cluster="When the app is deployed: no such run or artifact, or one of another type.",
        here=_NO_CLUSTER,
        recover=by_hand(
            "ParameterMaterializationError",
            '"No runs found for task etl.load"',
            doing="serve",
            recover='print("run the task once, then serve the app again")',
        ),
        prevent="Run the task that makes the value first, and declare the type that it really has.",
        related=("DeploymentError", "RuntimeDataValidationError"),
    ),
}
"""By class name; each is raised in the communication with a control plane."""

BUILDING: Final[dict[str, Words]] = {
    "DeploymentError": real_words(
        meaning="A task or an app could not be deployed, or something that deploying needs is missing.",
        on_cluster="From `flyte.deploy(...)` or `flyte.serve(...)`, in your own process.",
        here="Preconditions are checked without a cluster: `copy_style='none'` needs a version. Deploying needs one.",
        recover=in_this_process(
            "DeploymentError",
            before="""
flyte.init()
env = flyte.TaskEnvironment(name="explain", image="python:3.12")


@env.task
async def load() -> str:
    return "loaded"
""",
            attempt='flyte.deploy(env, copy_style="none")',
            recover='print(\'say which version: flyte.deploy(env, copy_style="none", version="7")\')',
        ),
        prevent="Read the message, it holds the server's own words. With a cluster, `flyte.deploy(env, dry_run=True)` "
        "checks a lot.",
        related=("ImageBuildError", "CodeBundleError", "ModuleLoadError", "InitializationError"),
    ),
    "ImageBuildError": real_words(
        meaning="A container image could not be built, or its definition is wrong.",
        on_cluster="Before a run or a deployment starts, in your own process.",
        here="A wrong definition is found without a registry; local runs themselves build no image.",
        recover=in_this_process(
            "ImageBuildError",
            imports="import os",
            attempt='image = flyte.Image.from_base(os.environ.get("NO_SUCH_VARIABLE", ""))\nprint(image.uri)',
            recover='image = flyte.Image.from_base("python:3.12-slim")\nprint(image.uri)',
        ),
        prevent="Give a full name of a base image, a registry that you may push to, and paths that exist.",
        related=("InvalidPackageError", "InvalidImageNameError", "ImagePullBackOffError"),
    ),
    "InvalidImageNameError": real_words(
        meaning="The name of the image is wrong: it cannot be parsed, or it stands in no configuration.",
        codes=("InvalidImageName",),
        on_cluster="When the node cannot make sense of the name; on the wire the code is "
        "`ContainersNotReady|InvalidImageName`.",
        here="For `flyte.Image.from_ref_name(...)` with a name that the configuration does not have, when images are "
        "built. Local runs look at no image.",
        recover=in_this_process(
            "InvalidImageNameError",
            before="""
flyte.init()
image = flyte.Image.from_ref_name("no-such-name")
env = flyte.TaskEnvironment(name="explain", image=image)
""",
            attempt="flyte.build_images(env)",
            recover='env = env.clone_with(name="explain", image="python:3.12-slim")\nprint(env.image)',
        ),
        prevent="Lower-case names with registry and tag, `registry/name:tag`; named images in the config file.",
        related=("ImagePullBackOffError", "ImageBuildError"),
    ),
    "ImagePullBackOffError": Words(
        meaning="The node could not pull the image of the task, and gave up after trying for some minutes.",
        codes=("ImagePullBackOff",),
        on_cluster="When the image does not exist, or the cluster may not read it. On the wire the code is "
        "`ContainersNotReady|ImagePullBackOff`.",
        here="Not by itself: local runs use the installed Python and pull no image.",
        recover=by_hand_in_a_run(
            "ImagePullBackOffError",
            '"ImagePullBackOff", "Back-off pulling image"',
            better="the image of last week",
        ),
        prevent="Push the image first; check name and tag, and the pull secret of the project.",
        related=("InvalidImageNameError", "ImageBuildError", "PrimaryContainerNotFoundError"),
    ),
    "InvalidPackageError": Words(
        meaning="An image asks for a system package that its package manager does not know.",
        on_cluster="When the image of a code sandbox is built.",
        here="Not by itself: only the build of an image finds out.",
        recover=by_hand(
            "InvalidPackageError",
            '"libfoo-dev", "Unable to locate package libfoo-dev"',
            doing="build",
            recover='print("leave out or correct:", error.package_name)',
        ),
        prevent="Check the name for the distribution of the base image (`apt-cache search` in a container of it).",
        related=("ImageBuildError",),
    ),
    "ModuleLoadError": Words(
        meaning="A file with tasks could not be imported: it is not there, has a syntax error, or an import in it "
        "fails.",
        on_cluster="From the `flyte` command line, on your own machine, before anything is sent.",
        here="Only the command line loads files: `flyte deploy broken.py` in a terminal raises it, no cluster needed. "
        "In a notebook the import itself fails, with its own exception.",
        recover=by_hand(
            "ModuleLoadError",
            "\"Failed to load etl.py: ModuleNotFoundError: No module named 'pandas'\"",
            doing="load",
            recover='print("python etl.py shows the whole traceback")',
        ),
        prevent="Run the file with `python` first. Keep imports that only the task needs inside the task.",
        related=("ModuleNotFoundError", "DeploymentError", "CodeBundleError"),
    ),
    "CodeBundleError": real_words(
        meaning="There is no code to send along: no file was found, or all of them are ignored.",
        on_cluster="Before a remote run or a deployment, when your files are packed.",
        here="The same, also in a dry run without a cluster; in a notebook with `interactive_mode=False`, since there "
        "the SDK pickles the task and packs no files. Local runs need no bundle.",
        recover=in_this_process(
            "CodeBundleError",
            imports="import tempfile\nfrom pathlib import Path",
            before="""
flyte.init(root_dir=Path(tempfile.mkdtemp()))  # a directory without any file
env = flyte.TaskEnvironment(name="explain", image="python:3.12")


@env.task
async def load() -> str:
    return "loaded"
""",
            attempt="""
files = {"copy_style": "all", "interactive_mode": False}  # files, also from a notebook
flyte.with_runcontext(mode="remote", dry_run=True, **files).run(load)
""",
            recover='print("set root_dir to the directory of your code, and look into .gitignore")',
        ),
        prevent="Set `root_dir` of `flyte.init` to your code; see that `.gitignore` and `.flyteignore` leave it in.",
        related=("DeploymentError", "ModuleLoadError"),
    ),
}
"""By class name; each is raised before a task runs: packing code, building images, deploying."""

DEVICES: Final[dict[str, Words]] = {
    "GPUFaultError": Words(
        meaning="A GPU had a fault while the task ran. `xid`, `severity`, `node` and others say more, and may be None.",
        codes=("GpuXidError", "GpuFallenOffBus", "GpuEccUncorrectable", "GpuRowRemapPending"),
        on_cluster="As one of its two subclasses, where the platform watches GPUs. Where it does not, the same failure "
        "is a plain runtime error: do not rely on this class alone.",
        here=_NO_GPU,
        recover=by_hand_in_a_run("GPUFaultError", _XID, better="the CPU", raises="flyte.errors.GPUFaultUserError"),
        prevent="Look at the subclass: a user fault is a bug in the code, a system fault is broken hardware.",
        related=("GPUFaultUserError", "GPUFaultSystemError"),
    ),
    "GPUFaultUserError": Words(
        meaning="The GPU fault was the task's own doing, such as an access out of bounds (Xid 31). The GPU is fine.",
        codes=("GpuXidError",),
        on_cluster="After the task's own retries are used up: the same code faults again.",
        here=_NO_GPU,
        recover=by_hand_in_a_run("GPUFaultUserError", _XID, better="the CPU"),
        prevent="Find the access: `CUDA_LAUNCH_BLOCKING=1` or `compute-sanitizer` names the kernel.",
        related=("GPUFaultError", "GPUFaultSystemError"),
    ),
    "GPUFaultSystemError": Words(
        meaning="The GPU or its node is broken, such as memory errors that cannot be corrected. Not the task's doing.",
        codes=("GpuEccUncorrectable", "GpuFallenOffBus"),
        on_cluster="After the platform has tried elsewhere, on its own account, and has given up.",
        here=_NO_GPU,
        recover=by_hand_in_a_run("GPUFaultSystemError", _ECC, better="another kind of GPU"),
        prevent="Nothing that code can do; tell whoever runs the cluster, with `error.node` and `error.gpu_uuid`.",
        related=("GPUFaultError", "GPUFaultUserError"),
    ),
    "AppleSiliconError": Words(
        meaning="The base of the errors of `flyte.Resources(gpu='AppleSilicon')`, which runs a task on the GPU of the "
        "Mac that a devbox runs on. Such a task fails rather than going on with the CPU.",
        on_cluster="As one of its subclasses.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run(
            "AppleSiliconError",
            '"this is no Mac with Apple Silicon"',
            better="the CPU",
            raises="flyte.errors.AppleSiliconNotAvailableError",
        ),
        prevent="Use `gpu='AppleSilicon'` only on a devbox started with `flyte start devbox --apple-silicon`.",
        related=("AppleSiliconNotAvailableError", "AppleSiliconDaemonOOMError", "GPUFaultError"),
    ),
    "AppleSiliconNotAvailableError": Words(
        meaning="`gpu='AppleSilicon'` was asked for where there is none: another machine, another cluster, or a devbox "
        "started without it. No retry is tried.",
        on_cluster="When such a task starts anywhere but on a devbox on an Apple Silicon Mac.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run(
            "AppleSiliconNotAvailableError", '"this is no Mac with Apple Silicon"', better="the CPU"
        ),
        prevent="Start the devbox with `flyte start devbox --apple-silicon`, or ask for another GPU.",
        related=("AppleSiliconError", "AppleSiliconHostExecFailedError"),
    ),
    "AppleSiliconHostExecFailedError": Words(
        meaning="The task could not be started on the Mac: its environment could not be built, or its entry point "
        "did not start. No retry is tried.",
        on_cluster="On a devbox, for example when `uv` is missing or a package has no build for macOS.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run(
            "AppleSiliconHostExecFailedError", '"no macOS wheel for this package"', better="the CPU"
        ),
        prevent="Install `uv` on the Mac, and use packages that exist for macOS on arm64.",
        related=("AppleSiliconError", "AppleSiliconNotAvailableError"),
    ),
    "AppleSiliconDaemonStartFailedError": Words(
        meaning="The MLX daemon on the Mac, which serves a task in container mode, did not start. No retry is tried.",
        on_cluster="On a devbox, when such a task starts.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run("AppleSiliconDaemonStartFailedError", '"the daemon did not start"', better="the CPU"),
        prevent="Look into the daemon's own log on the Mac.",
        related=("AppleSiliconError", "AppleSiliconModelNotFoundError"),
    ),
    "AppleSiliconDaemonOOMError": Words(
        meaning="The process on the Mac that does the task's work was killed for lack of memory. Retries are tried.",
        on_cluster="On a devbox, when the Mac runs out of memory.",
        here=f"{_NO_DEVBOX} A local task that needs too much is OOMError.",
        recover=by_hand_in_a_run(
            "AppleSiliconDaemonOOMError", '"the host process was killed (out of memory)"', better="a smaller model"
        ),
        prevent="A smaller or quantised model, smaller batches, fewer of them at a time.",
        related=("AppleSiliconError", "OOMError"),
    ),
    "AppleSiliconModelNotFoundError": Words(
        meaning="The model that the task asks the MLX daemon for cannot be found or loaded. No retry is tried.",
        on_cluster="On a devbox, when the daemon loads the model.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run(
            "AppleSiliconModelNotFoundError", '"there is no model of that name"', better="another model"
        ),
        prevent="Check the model's name, and that the Mac can download it.",
        related=("AppleSiliconError", "AppleSiliconDaemonStartFailedError"),
    ),
    "AppleSiliconBridgeUnreachableError": Words(
        meaning="The container cannot reach the Mac that it runs on, or the Mac lost track of the task's process. "
        "Retries are tried.",
        on_cluster="On a devbox, when the bridge to the Mac does not answer.",
        here=_NO_DEVBOX,
        recover=by_hand_in_a_run(
            "AppleSiliconBridgeUnreachableError", '"the bridge does not answer"', better="a second try"
        ),
        prevent="Restart the devbox with `flyte start devbox --apple-silicon`.",
        related=("AppleSiliconError", "AppleSiliconNotAvailableError"),
    ),
}
"""By class name; each is caused by a GPU."""
