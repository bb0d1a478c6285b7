"""What is relied on of IPython, ipykernel and widgets: each planted change is named by the doctor of a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernels import started

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

LOAD = """%load_ext flyte_notebook
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement
enforcement.current().engine.wait_until_proven()
"""

CHECK = """
import contextlib, sys
from unittest import mock
from flyte_notebook.notebook import relies
from flyte_notebook.core.reliance import losses
shell = get_ipython()
def lost(*breaks):
    with contextlib.ExitStack() as planted:
        for change in breaks:
            planted.enter_context(change)
        losses.check(relies.entries(shell))
    said = str(fn.doctor())
    losses.check(relies.entries(shell))
    return said
"""

CHANGES = {
    "errors of cells": "mock.patch.object(type(shell), 'set_custom_exc', lambda *_: None)",
    "names of cells": "mock.patch.object(shell.compile, 'get_code_name', lambda *_: '<code of a cell>')",
    "numbers of cells": "mock.patch.object(type(shell.history_manager), 'input_hist_raw', [''] * 1000)",
    "values of cells": "mock.patch('IPython.core.displayhook.DisplayHook.semicolon_at_end_of_expression', "
    "lambda _text: False)",
    "completion": "mock.patch.object(type(shell.Completer), 'matchers', [])",
    "nested loops": "mock.patch('asyncio.run', mock.Mock(side_effect=RuntimeError('a loop is running')))",
    "interrupts": "mock.patch('signal.getsignal', lambda _number: None)",
    "shell channel": "mock.patch.object(shell.kernel, 'shell_handlers', {})",
    "headers": "mock.patch.object(type(shell.display_pub.session), 'msg', "
    "lambda *_, **__: {'parent_header': {'msg_id': 'another'}})",
}
"""By the key of the entry: what another release could do, as an expression."""


@pytest.mark.parametrize("key", CHANGES)
def test_a_planted_change_in_the_kernel_is_named(kernel: Kernel, key: str) -> None:
    """Where IPython or ipykernel behaves otherwise, the doctor names the feature, and takes it back afterwards."""
    kernel.run(CHECK).ok()
    feature, library = kernel.value(f"(relies.BY_KEY[{key!r}].lost, relies.BY_KEY[{key!r}].library)")
    assert feature not in kernel.value("str(fn.doctor())")
    said = kernel.value(f"lost({CHANGES[key]})")
    assert feature in said
    assert f"{library}: " in said
    assert feature not in kernel.value("str(fn.doctor())")


@pytest.mark.parametrize(
    ("key", "library", "module"),
    [("widgets", "ipywidgets", "failures.card"), ("charts", "matplotlib", "charts.chart")],
)
def test_a_library_that_does_not_load_costs_its_feature(kernel: Kernel, key: str, library: str, module: str) -> None:
    """Forms and charts are loaded aside when they may be needed; what fails then is said below the next cell."""
    kernel.run(CHECK + "from flyte_notebook.notebook import cards").ok()
    reply = kernel.run(
        f"with mock.patch('flyte_notebook.views.{module}.warm', side_effect=ImportError('no {library} here')):\n"
        "    cards.warm()\n"
        f"assert relies.BY_KEY[{key!r}].lost in str(fn.doctor())"
    ).ok()
    feature = kernel.value(f"relies.BY_KEY[{key!r}].lost")
    assert f"lost here: {feature} ({library}); %flyte doctor says why" in "".join(reply.notes)
    kernel.run("cards.warm()").ok()
    kernel.run("losses.put('widgets', None); losses.put('charts', None)").ok()


def test_an_ipython_that_cannot_be_used_in_a_task(kernel: Kernel) -> None:
    """The cell that displays fails with one clear error, one that prints does not, and the doctor says what is lost."""
    kernel.run(CHECK).ok()
    assert (
        "7\n" == kernel.run("%%flyte_task\nimport sys\nsys.modules['IPython.core.profiledir'] = None\nprint(7)").stdout
    )
    reply = kernel.run("%%flyte_task\nimport sys\nsys.modules['IPython.core.profiledir'] = None\ndisplay(7)")
    assert "RuntimeError" in reply.evalue or "this IPython cannot be used in a task" in reply.evalue
    feature = kernel.value("relies.BY_KEY['IPython in a task'].lost")
    assert feature in kernel.value("str(fn.doctor())")
    assert kernel.value('losses.put("IPython in a task", None)') is None


def test_widgets_that_name_their_parts_otherwise(kernel: Kernel) -> None:
    """Progress of a task is shown as text then, and the doctor says what is lost."""
    kernel.run(CHECK + "from flyte_notebook.notebook import widgets_of_tasks").ok()
    reply = kernel.run(
        "with mock.patch.object(widgets_of_tasks, '_classes', dict):\n"
        "    get_ipython().run_cell_magic('flyte_task', '--quiet', 'import ipywidgets\\n'\n"
        "        'display(ipywidgets.IntProgress(3))')"
    ).ok()
    assert "IntProgress(value=3)" in reply.shown_text
    assert not any("application/vnd.jupyter.widget-view+json" in bundle for bundle in reply.shown)
    feature = kernel.value('relies.BY_KEY["widgets of tasks"].lost')
    assert feature in kernel.value("str(fn.doctor())")
    kernel.run("losses.put('widgets of tasks', None)").ok()


@pytest.mark.parametrize("change", ["atexit._run_exitfuncs = lambda: None", "del threading._threading_atexits"])
def test_exit_handlers_that_do_not_run(kernel: Kernel, change: str) -> None:
    """A task whose exit handlers cannot be run still ends well, and the doctor says what is lost."""
    kernel.run(CHECK + "from flyte_notebook.worker.relies import BY_KEY").ok()
    feature = kernel.value('BY_KEY["exit handlers"].lost')
    assert feature not in kernel.value("str(fn.doctor())")
    kernel.run("%%flyte_task\nimport atexit\nprint('before')\natexit.register(print, 'after')").ok()
    assert feature not in kernel.value("str(fn.doctor())")
    reply = kernel.run(f"%%flyte_task\nimport atexit, threading\n{change}\n7").ok()
    assert "7" == reply.result
    assert feature in kernel.value("str(fn.doctor())")
    kernel.run("losses.put('exit handlers', None)").ok()


def test_stacks_that_cannot_be_read(tmp_path: Path) -> None:
    """Where a worker finds that its stack is read wrong, the next cell and the doctor name the feature that is lost."""
    (tmp_path / "sitecustomize.py").write_text("import threading\nthreading.get_native_id = lambda: 1")
    with started() as kernel:
        kernel.run(f"import os\nos.environ['PYTHONPATH'] = {str(tmp_path)!r}")
        notes = kernel.run(LOAD).ok().notes
        kernel.run("from flyte_notebook.worker.relies import BY_KEY").ok()
        feature = kernel.value('BY_KEY["stacks"].lost')
        assert [f"lost here: {feature} (CPython); %flyte doctor says why"] == notes
        assert "are not as they were known: thread_native_id" in kernel.value("str(fn.doctor())")
        reply = kernel.run("%%flyte_task --memory 100Mi\nx = bytearray(1 << 30)")
        assert "OOMError" == reply.ename
        assert reply.failure["line"] is None
