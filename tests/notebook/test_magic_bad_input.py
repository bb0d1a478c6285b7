"""What cannot run gets a clear error before anything runs, and nothing is lost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel, Reply

pytestmark = pytest.mark.jupyter


def refused(kernel: Kernel, source: str) -> Reply:
    """Run a cell that must not start anything; return its reply."""
    kernel.run("precious = [1]")
    runs = kernel.value("len(fn.runs)")
    reply = kernel.run(source)
    assert "error" == reply.status
    assert ([1], runs) == kernel.value("(precious, len(fn.runs))")
    assert [] == reply.shown
    return reply


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--memroy 5", "there is no option --memroy; did you mean --memory 250Mi?"),
        ("--memory 50Ti", "--memory 50Ti is more than this machine has ("),
        ("--env nowhere", "--env: `nowhere` does not exist; write in another cell, for example, nowhere = flyte.Task"),
        ("--env precious", "--env: `precious` is of type list, no flyte.TaskEnvironment; write in another cell, "),
        ("-i nowhere", "-i names `nowhere`, and the notebook has no such name"),
        ("-i precius", "-i names `precius`, and the notebook has no such name; did you mean `precious`?"),
        ("--on-oom x2:4Gi", "--on-oom: there is no memory limit that could grow; declare one, for example 250Mi"),
        ("-m 250Mi --on-oom x2:200Mi", "--on-oom: 200Mi is below the limit of 250Mi; give more, for example 500Mi"),
        ("-m 250Mi --on-oom x2:900Ti", "--on-oom: 900Ti is more than this machine has"),
    ],
)
def test_a_bad_option_gets_one_line(kernel: Kernel, line: str, said: str) -> None:
    """It names the option, says what was wrong and shows what is right; the execute reply is a UsageError.

    These need the notebook or the machine, but for the first; what the line alone tells is in ``test_options``.
    """
    reply = refused(kernel, f"%%flyte_task {line}\n1")
    assert "UsageError" == reply.ename
    assert reply.stderr.startswith(f"UsageError: %%flyte_task: {said}")
    assert 1 == reply.stderr.count("\n")


def test_a_limit_below_what_python_needs_says_how_much_that_is(kernel: Kernel) -> None:
    """The measured baseline of this machine stands in the message, with a limit that works."""
    reply = refused(kernel, "%%flyte_task --memory 5Mi\n1")
    said = re.search(r"--memory 5Mi is less than Python and Flyte need \(([\d.]+) MiB\)", reply.stderr)
    assert said is not None
    assert 15 < float(said[1]) < 100
    assert reply.stderr.endswith(". Write for example 128Mi.\n")
    assert "1" == kernel.run("%%flyte_task --memory 128Mi\n1").ok().result


SYNTAX = {
    "invalid": "def f(:\n    pass",
    "indent": "x = 1\n  y = 2",
    "outside": "x = 1\nreturn 5",
    "unclosed text": "s = 'abc",
    "octal": "n = 0777",
    "no body": "for i in range(3):\npass",
    "in a text": "x = 1\nf'{x y}'",
    "after a magic": "%pwd\nx = = 2",
}


@pytest.mark.parametrize("body", SYNTAX.values(), ids=SYNTAX)
def test_a_syntax_error_is_shown_as_in_a_plain_cell(kernel: Kernel, body: str) -> None:
    """The line, a caret under the same spot and the same sentence, under the number of the cell."""
    plain, shown = kernel.run(f"pass\n{body}"), refused(kernel, f"%%flyte_task\n{body}")
    assert plain.ename == shown.ename
    expected, found = plain.traceback.rstrip().split("\n"), shown.traceback.rstrip().split("\n")
    assert expected[0].strip().partition("]")[2] == found[0].strip().partition("]")[2]
    assert found[0].strip().startswith("Cell In[")
    assert expected[1] == found[1]
    assert expected[2] == found[2][: len(expected[2])], "the caret begins at the same spot"
    assert expected[3:] == found[3:]


def test_a_name_that_exists_nowhere_is_found_before_anything_runs(kernel: Kernel) -> None:
    """It is a NameError as in a plain cell, with the line and a caret, and a guess at what was meant."""
    reply = refused(kernel, "%%flyte_task\nx = 1\nprint(x, 'é', precius)")
    assert ("NameError", "name 'precius' is not defined; did you mean `precious`?") == (reply.ename, reply.evalue)
    first, line, caret, last = reply.traceback.split("\n")
    assert first.startswith("  Cell In[")
    assert first.endswith("], line 3")
    assert "    print(x, 'é', precius)" == line
    assert (line.index("precius"), len("precius")) == (caret.index("^"), caret.count("^"))
    assert f"NameError: {reply.evalue}" == last


def test_an_input_that_cannot_be_pickled_is_named_with_the_part_of_it(kernel: Kernel) -> None:
    """One line names the variable and the attribute inside of it, and what to do."""
    kernel.run(
        "import threading\nclass Holder: pass\nholder = Holder(); holder.inner = Holder()\n"
        "holder.inner.lock = threading.Lock(); large = bytes(2 << 20)"
    )
    reply = refused(kernel, "%%flyte_task\nlarge, holder")
    assert "UsageError" == reply.ename
    assert (
        "UsageError: %%flyte_task: `holder.inner.lock` is a _thread.lock, which cannot be pickled "
        "(cannot pickle '_thread.lock' object); make it in the cell, or leave it out with --inputs\n"
    ) == reply.stderr
    kernel.run("def locked():\n    return holder")
    reply = refused(kernel, "%%flyte_task\nlocked()")
    assert reply.stderr.startswith("UsageError: %%flyte_task: `locked` cannot be sent to the task: `locked")
    assert "holder.inner.lock` is a _thread.lock" in reply.stderr


def test_an_input_of_a_call_that_cannot_be_pickled_is_named(kernel: Kernel) -> None:
    """In a plain cell the error is one line under the line of the call, not forty frames."""
    kernel.run("import threading\nx = [1]")
    kernel.run("%%flyte_task named\nx").ok()
    reply = kernel.run("lock = threading.Lock()\nawait named(x=[lock])")
    assert "PicklingProblem" == reply.ename
    call, last = reply.traceback.split("\n")
    assert call.endswith("], line 2: await named(x=[lock])")
    assert last.startswith("PicklingProblem: `x[0]` is a _thread.lock, which cannot be pickled")


def test_an_output_asked_for_that_cannot_be_pickled_fails_the_task(kernel: Kernel) -> None:
    """The card names the output and why; without -o the others come back."""
    cell = "\nimport threading\nbox = [threading.Lock()]\nfine = 1"
    reply = kernel.run("%%flyte_task -o box,fine" + cell)
    assert "RuntimeUserError" == reply.ename
    assert reply.evalue.startswith("`box[0]` is a _thread.lock, which cannot be pickled")
    assert ["`box[0]` (_thread.lock) cannot be pickled and stays in the task"] == kernel.run(
        "%%flyte_task" + cell
    ).notes
    assert (1, False) == kernel.value("(fine, 'box' in globals())")


def test_an_output_asked_for_that_was_not_set_is_named(kernel: Kernel) -> None:
    """``-o`` with a name that the cell never sets fails with that name."""
    reply = kernel.run("%%flyte_task -o never\n1")
    assert "RuntimeUserError" == reply.ename
    assert "-o names `never`, and the cell has not set it when it ends" == reply.evalue


def test_an_empty_cell_is_refused(kernel: Kernel) -> None:
    """A cell without a body is an error that says so."""
    assert "the cell body is empty" in refused(kernel, "%%flyte_task").stderr
