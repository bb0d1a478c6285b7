"""A cell that is a task fails like a cell, shows its card, and leaves the notebook whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bounds import under_load

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

PROMPT_S = 5.0
"""How soon an interrupt is over on a busy machine; the cells below would run for a minute."""

DEATHS = {
    "out of memory": ("-m 80Mi", "large = b'x' * 200_000_000", "OOMError", "OOMKilled"),
    "too long": ("-t 300ms", "while True: pass", "MaxRuntimeExceededError", "MaxRuntimeExceededError"),
    "stop iteration": ("", "raise StopIteration(3)", "RuntimeUserError", "StopIteration"),
    "sys.exit": ("", "import sys; sys.exit(4)", "RuntimeUserError", "SystemExit"),
    "os._exit": ("", "import os; os._exit(3)", "RuntimeSystemError", "Interrupted"),
    "segmentation fault": ("", "import ctypes; ctypes.string_at(0)", "RuntimeSystemError", "Interrupted"),
    "kill": ("", "import os; os.kill(os.getpid(), 9)", "RuntimeSystemError", "Interrupted"),
    "endless recursion": ("", "def f(): f()\nf()", "RuntimeUserError", "RecursionError"),
}


@pytest.mark.parametrize(("line", "body", "error", "code"), DEATHS.values(), ids=DEATHS)
def test_whatever_a_task_dies_of_the_notebook_lives(
    kernel: Kernel, line: str, body: str, error: str, code: str
) -> None:
    """The reply is an error of that class, one card tells it, and the kernel's variables are as they were."""
    kernel.run("precious = {'a': [1]}")
    pid = kernel.value("os.getpid()")
    reply = kernel.run(f"%%flyte_task {line}\nprecious['a'][0] = 2\n{body}")
    assert ("error", error) == (reply.status, reply.ename)
    assert (error, code) == (reply.failure["error"], reply.failure["code"])
    root = f'<section class="flyte-notebook-card" data-error="{error}"'
    assert 1 == reply.card["text/html"].count(root)
    assert reply.card["text/plain"].startswith(f"{error}: ")
    assert f"\n{reply.traceback}".rpartition("\n")[2].startswith(f"{error}: ")
    assert (pid, {"a": [1]}, error) == kernel.value("(os.getpid(), precious, type(fn.last_run.failure.error).__name__)")


def test_the_card_has_what_others_rely_on(kernel: Kernel) -> None:
    """Root element with its data, the bundle for tools with inputs but no values, and text."""
    kernel.run("secret = 'top-secret-value'; os.environ['TOKEN'] = 'hidden-token'")
    reply = kernel.run("%%flyte_task carded --memory 200Mi\nn = len(secret)\nn / 0")
    worker = reply.failure["worker"]
    assert (
        f'<section class="flyte-notebook-card" data-error="RuntimeUserError" data-kind="user" '
        f'data-code="ZeroDivisionError" data-worker="{worker}"'
    ) in reply.card["text/html"]
    assert worker.startswith("carded-")
    assert ["secret"] == [fact["name"] for fact in reply.failure["inputs"]]
    everything = str(reply.events)
    assert "top-secret-value" not in everything
    assert "hidden-token" not in everything
    assert {"text/html", "text/plain", "application/vnd.flyte-notebook.failure+json"} == set(reply.card)
    kernel.run("del os.environ['TOKEN']")


def test_an_uncaught_error_of_a_plain_cell_shows_the_card(kernel: Kernel) -> None:
    """Above a short traceback with the notebook's own lines and those of the task, and none of the SDK's."""
    kernel.run(
        "env = flyte.TaskEnvironment(name='plain')\n@env.task\nasync def failing(n: int) -> float:\n    return n / 0"
    )
    reply = kernel.run("def main():\n    return flyte.run(failing, 1)\n\nmain()")
    assert ("error", "RuntimeUserError") == (reply.status, reply.ename)
    assert "ZeroDivisionError" == reply.failure["code"]
    lines = reply.traceback.split("\n")
    assert lines[0].endswith("], line 4: main()")
    assert lines[1].endswith("], line 2: return flyte.run(failing, 1)")
    assert "site-packages" not in reply.traceback
    assert len(lines) < 8
    awaited = kernel.run("await flyte.run.aio(failing, 1)")
    assert "ZeroDivisionError" == awaited.failure["code"]


def test_an_error_raised_by_hand_shows_a_card(kernel: Kernel) -> None:
    """Any class of ``flyte.errors`` can be raised in any cell and is shown on the line that raised it."""
    reply = kernel.run("1 + 1\nraise flyte.errors.OOMError('OOMKilled', 'by hand', 'user')")
    assert ("OOMError", "OOMKilled") == (reply.ename, reply.failure["code"])
    assert "], line 2, in <module>\n  > 2 | raise flyte.errors.OOMError" in reply.traceback
    assert "(raised in the notebook itself)" in reply.card["text/plain"]


def test_other_errors_are_shown_as_ever(kernel: Kernel) -> None:
    """A NameError, a SyntaxError and any other exception of a plain cell have IPython's own traceback."""
    for source, error in (("nowhere", "NameError"), ("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError")):
        reply = kernel.run(source)
        assert (error, []) == (reply.ename, reply.shown)
        assert "Cell In[" in reply.traceback
    assert "Traceback (most recent call last)" in kernel.run("nowhere").traceback


def test_an_exception_carries_its_failure(kernel: Kernel) -> None:
    """What is caught in a plain cell has ``failure``, with the fields that are promised; the run is the last one."""
    kernel.run("%%flyte_task dying --no-raise --memory 200Mi\nprint('said')\n[][0]").ok()
    kernel.run(
        "try:\n    flyte.run(dying)\nexcept flyte.errors.RuntimeUserError as error:\n    failure = error.failure\n"
        "    same = error.failure.error is error"
    ).ok()
    assert ("user", "IndexError", "list index out of range", "raised", "[][0]", True) == kernel.value(
        "(failure.kind, failure.code, failure.message, failure.reason, failure.line.text, same)"
    )
    assert "'said\\n'" == kernel.run("print(repr(failure.output_tail))").stdout.strip()
    assert kernel.value("fn.last_run.failure is failure and fn.last_failure is failure")
    assert kernel.value("'[][0]' in str(failure.line) and failure.worker != ''")


def test_a_caught_failure_leaves_no_failed_run(kernel: Kernel) -> None:
    """A cell that recovers from a nested failure succeeds; the failed action is in its tree."""
    kernel.run("%%flyte_task weak --no-raise --memory 60Mi\nlen(b'x' * 100_000_000)")
    reply = kernel.run(
        "%%flyte_task\nimport flyte.errors\ntry:\n    await weak()\nexcept flyte.errors.OOMError:\n    'caught'"
    )
    (tree,) = reply.ok().shown
    assert "✗ weak" in tree["text/plain"]
    assert (True, ["cell", "weak"]) == kernel.value(
        "(fn.last_run.failure is None, [action.task_name for action in fn.last_run.actions])"
    )
    last = kernel.run("%flyte last").ok().shown_text
    assert "✗ weak" in last
    assert "OOMError" in last


SLEEP = "import subprocess\nwith open(place, 'w') as file:\n    child = subprocess.Popen(['sleep', '60'])\n"
SLEEP += "    print(child.pid, file=file, flush=True)\n    print('waiting', flush=True)\n    child.wait()"


@pytest.fixture
def place(kernel: Kernel, tmp_path: object) -> str:
    """Give the path of a file that is named ``place`` in the notebook."""
    path = f"{tmp_path}/child"
    kernel.run(f"place = {path!r}")
    return path


def assert_gone(kernel: Kernel) -> None:
    """Wait until the child that a task wrote down is ended."""
    kernel.run(
        "import time\npid = int(open(place).read())\nfor _ in range(200):\n    try: os.kill(pid, 0)\n"
        "    except ProcessLookupError: break\n    time.sleep(0.05)\nelse: raise TimeoutError(f'{pid} lives')"
    ).ok()


@pytest.mark.parametrize("option", ["", "--no-raise"])
def test_an_interrupt_stops_the_cell_and_all_it_started(kernel: Kernel, place: str, option: str) -> None:
    """The reply is an ActionAbortedError at once, whatever --no-raise says, and no process is left."""
    reply = kernel.run(f"%%flyte_task sleeper {option}\n{SLEEP}", interrupt_after="waiting")
    assert ("error", "ActionAbortedError") == (reply.status, reply.ename)
    assert "Stopped by you after" in reply.card["text/plain"]
    assert len(reply.traceback.split("\n")) <= 2
    assert reply.late_s < under_load(PROMPT_S)
    assert_gone(kernel)
    assert kernel.value("isinstance(sleeper, flyte.extend.TaskTemplate)"), "the name is bound all the same"
    assert "1" == kernel.run("%%flyte_task\n1").ok().result


LOOP = """for n in range(3):
    try:
        flyte.run(sleeper, place=place)
    except Exception:
        print('swallowed')
"""
BLOCKED = {
    "flyte.run": (LOOP, "KeyboardInterrupt"),
    "await": ("await sleeper(place=place)", "CancelledError"),
}


@pytest.mark.parametrize(("source", "error"), BLOCKED.values(), ids=BLOCKED)
def test_an_interrupt_of_a_plain_cell_cannot_be_swallowed(kernel: Kernel, place: str, source: str, error: str) -> None:
    """The run is stopped, the cell ends with an error that no ``except Exception`` catches, in two short lines."""
    body = SLEEP.replace("\n", "\n    ")
    kernel.run("env = flyte.TaskEnvironment(name='interrupted')").ok()
    kernel.run(f"@env.task\nasync def sleeper(place: str) -> None:\n    {body}").ok()
    reply = kernel.run(source, interrupt_after="waiting")
    assert ("error", error) == (reply.status, reply.ename)
    assert "swallowed" not in reply.stdout
    where, what = reply.traceback.split("\n")
    assert "sleeper" in where
    assert f"{error}: the run was aborted: interrupt" == what
    assert reply.late_s < under_load(PROMPT_S)
    assert_gone(kernel)


def test_an_interrupt_of_a_cell_without_a_run_is_shown_as_ever(kernel: Kernel) -> None:
    """A plain cell that runs no task has IPython's own traceback of the interrupt."""
    reply = kernel.run("import time\nprint('waiting', flush=True)\ntime.sleep(60)", interrupt_after="waiting")
    assert "KeyboardInterrupt" == reply.ename
    assert "Traceback (most recent call last)" in reply.traceback
