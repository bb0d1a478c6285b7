"""Loading says in one line what is enforced; unloading puts everything back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from kernels import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

STATE = """
import asyncio, os, signal, sys, threading
import flyte
from flyte._internal.controllers import _local_controller
from flyte.extend import TaskTemplate
_shell = get_ipython()
def _state():
    magics = _shell.magics_manager.magics
    return {
        "magics": {kind: sorted(table) for kind, table in magics.items()},
        "sdk": (dict(vars(_local_controller)), dict(vars(TaskTemplate))),
        "custom exceptions": (_shell.custom_exceptions, _shell.CustomTB),
        "loop": asyncio.get_event_loop().get_exception_handler(),
        "signal": signal.getsignal(signal.SIGINT),
        "completion": list(_shell.Completer.custom_matchers),
        "events": {name: list(calls) for name, calls in _shell.events.callbacks.items()},
        "import hooks": list(sys.meta_path),
        "threads": sorted(t.name for t in threading.enumerate() if t.name.startswith("flyte-notebook")),
        "variables": sorted(name for name in globals() if not name.startswith("_")),
    }
def _changed():
    now = _state()
    return [name for name in now if now[name] != _before[name]]
_before = _state()
"""

ENFORCED = (
    "env = flyte.TaskEnvironment(name='e')\n@env.task\ndef where() -> int:\n    import os\n    return os.getpid()\n"
    "_inside = flyte.run(where).outputs()[0] != os.getpid()"
)


@pytest.fixture(scope="module")
def bare_kernel() -> Iterator[Kernel]:
    """Give a kernel without the extension that remembers what it was like."""
    with started() as kernel:
        kernel.run("import flyte\nflyte.init()").ok()
        kernel.run(STATE).ok()
        yield kernel


def test_loading_prints_one_line_and_unloading_restores_everything(bare_kernel: Kernel) -> None:
    """Versions and mechanisms on load; after unload magics, SDK, handlers, hooks, events and names are as before."""
    loaded = bare_kernel.run("%load_ext flyte_notebook").ok()
    words = r"(kernel \(cgroup v[12]\)|watchdog.*|not enforced.*|affinity.*)"
    line = rf"flyte_notebook \S+ · flyte \S+ · Python \S+ · memory: {words} · cpu: {words} · time: yes\n"
    assert re.fullmatch(line, loaded.stdout), loaded.stdout
    assert ([], "") == (loaded.shown, loaded.stderr)
    changed = set(bare_kernel.value("_changed()"))
    assert {"magics", "sdk", "custom exceptions", "loop", "signal", "completion", "events"} <= changed
    assert "variables" not in changed, "loading leaves the user's names alone"
    assert "2" == bare_kernel.run("%%flyte_task two\n1 + 1").ok().result
    bare_kernel.run(ENFORCED).ok()
    assert bare_kernel.value("_inside")
    bare_kernel.run("del two, where, env")
    unloaded = bare_kernel.run("%unload_ext flyte_notebook").ok()
    assert "Unloaded. Restart the kernel to remove its asyncio changes too.\n" == unloaded.stdout
    assert [] == bare_kernel.value("_changed()")


def test_after_unloading_nothing_of_ours_acts(bare_kernel: Kernel) -> None:
    """The magic is gone, tasks run in the kernel again, errors have IPython's traceback, no process is left."""
    bare_kernel.run("%reload_ext flyte_notebook").ok()
    bare_kernel.run("%unload_ext flyte_notebook").ok()
    assert "Cell magic `%%flyte_task` not found" in bare_kernel.run("%%flyte_task\n1").stderr
    assert "Line magic function `%flyte` not found" in bare_kernel.run("%flyte last").stderr
    bare_kernel.run(ENFORCED).ok()
    assert not bare_kernel.value("_inside")
    reply = bare_kernel.run("raise flyte.errors.OOMError('OOMKilled', 'by hand', 'user')")
    assert [] == reply.shown
    assert "Traceback (most recent call last)" in reply.traceback
    assert "[]" == bare_kernel.run("import psutil\nprint(psutil.Process().children(recursive=True))").stdout.strip()
    assert "--memory" not in bare_kernel.complete("%%flyte_task --me")


def test_unloading_waits_for_what_is_loaded_aside(bare_kernel: Kernel) -> None:
    """The thread in which the first run has the first card's needs loaded is gone, however long that takes."""
    bare_kernel.run(
        "import time\n_begun = threading.Event()\n"
        "from flyte_notebook.notebook import extension as _extension\n_warm = _extension.warm\n"
        "_extension.warm = lambda: (_begun.wait(30), time.sleep(2))"
    ).ok()
    bare_kernel.run("%load_ext flyte_notebook").ok()
    bare_kernel.run("%%flyte_task\n1").ok()
    bare_kernel.run("_begun.set()\n%unload_ext flyte_notebook\n_extension.warm = _warm").ok()
    assert [] == [name for name in bare_kernel.value("_changed()") if name != "variables"]


def test_loading_twice_changes_nothing(bare_kernel: Kernel) -> None:
    """IPython says that it is loaded; a call of the extension itself is quiet; one unload undoes both."""
    bare_kernel.run("%load_ext flyte_notebook").ok()
    assert "already loaded" in bare_kernel.run("%load_ext flyte_notebook").ok().stdout
    again = bare_kernel.run("import flyte_notebook as _fn\n_fn.load_ipython_extension(_shell)").ok()
    assert "" == again.stdout
    bare_kernel.run("%unload_ext flyte_notebook").ok()
    assert "" == bare_kernel.run("_fn.unload_ipython_extension(_shell)").ok().stdout
    assert [] == [name for name in bare_kernel.value("_changed()") if name != "variables"]


def test_reloading_works_and_keeps_the_history(bare_kernel: Kernel) -> None:
    """After ``%reload_ext`` cells run as tasks, and earlier tasks still run."""
    bare_kernel.run("%load_ext flyte_notebook").ok()
    bare_kernel.run("x = 1")
    bare_kernel.run("%%flyte_task early\nx + 1").ok()
    reloaded = bare_kernel.run("%reload_ext flyte_notebook").ok()
    assert ["Unloaded. Restart", "flyte_notebook 0."] == [
        start
        for line in reloaded.stdout.splitlines()
        for start in ("Unloaded. Restart", "flyte_notebook 0.")
        if line.startswith(start)
    ]
    assert "6" == bare_kernel.run("await early(x=5)").ok().result
    assert "3" == bare_kernel.run("%%flyte_task\nx + 2").ok().result
    assert "early-" in bare_kernel.value("[run.name for run in _fn.runs if run.task_name == 'early'][0]")
    bare_kernel.run("%unload_ext flyte_notebook").ok()
