"""``--memory 128Mi:1Gi:8`` and ``--sweep x=1,2,4`` in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel, Reply

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

CELL = """%%flyte_task {line}
print("working")
size = len(bytearray(40 * x << 20))
"""


def test_a_cell_is_swept_over_limits(kernel: Kernel) -> None:
    """One picture and one table for all runs: no output, no card, no variable, no run in the history."""
    kernel.run("x = 3").ok()
    before = kernel.value("(len(fn.runs), str(fn.last_failure))")
    reply = kernel.run(CELL.format(line="oomer --memory 96Mi:288Mi:3")).ok()
    assert "" == reply.stdout
    (shown,) = [bundle for bundle in reply.shown if "sweep of" in bundle.get("text/plain", "")]
    assert "passes from 192 MiB on, and not at 96 MiB (OOM); 3 runs" in shown["text/plain"]
    assert 'class="flyte-notebook-sweep" data-points="3" data-planned="3"' in shown["text/html"]
    assert "data:image/svg+xml" in shown["text/html"]
    assert ["OOM", "passed", "passed"] == kernel.value("[point.outcome for point in fn.last_sweep.points]")
    assert (*before, False) == kernel.value("(len(fn.runs), str(fn.last_failure), 'size' in globals())")
    assert "CellTask" == kernel.value("type(oomer).__name__")


def test_what_an_earlier_cell_gave_back_stays(kernel: Kernel) -> None:
    """The last run is the one before the sweep, and it still has its outputs; those of the points go nowhere."""
    kernel.run("%%flyte_task\nkept = 5").ok()
    kernel.run("%%flyte_task --sweep n=1,2\nmade = n").ok()
    assert {"kept": 5} == kernel.value("fn.last_run.outputs")


def test_an_input_is_swept_whether_or_not_the_notebook_has_it(kernel: Kernel) -> None:
    """The cell gets each value in turn, also of a name that the notebook does not have; a line is fitted."""
    reply = kernel.run(CELL.format(line="--sweep x=1,2,4"))
    reply.ok()
    assert "Prediction, not measured: " in reply.shown_text
    assert "for x = 8." in reply.shown_text
    assert ("ShownSweep", [1, 2, 4]) == kernel.value("(type(_).__name__, [point.value for point in _.points])")


def test_values_of_any_type_are_swept_with_limits(kernel: Kernel) -> None:
    """Texts, lists and None, each with a type of its own, at each limit."""
    kernel.run("%%flyte_task --memory 100Mi:200Mi:2 --sweep kind='a b',[1],None,2.5\nassert kind is not ...").ok()
    points = kernel.value("[(point.value, point.outcome) for point in fn.last_sweep.points]")
    assert [(value, "passed") for value in ("a b", [1], None, 2.5) for _ in range(2)] == points


def test_a_cell_that_fails_otherwise_says_so(kernel: Kernel) -> None:
    """Every limit fails for the same reason, which is in the first line."""
    reply = kernel.run("%%flyte_task --memory 100Mi:200Mi:2\n1 / 0").ok()
    assert "failed at every limit, for another reason: raised ZeroDivisionError" in reply.shown_text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--memory 1Gi:128Mi:8", "--memory: 1Gi:128Mi:8 goes from the larger limit to the smaller; write 128Mi:1Gi:8"),
        ("--memory 128Mi:900Ti:8", "--memory: 900Ti is more than this machine has"),
        ("--memory 1Mi:2Mi:8", "--memory: 2Mi is less than Python and Flyte need"),
        ("--sweep y=1,2", "--sweep: the cell has no input y; it takes x: write for example x=1,2,4,8"),
        ("--sweep x", "--sweep: x names no input"),
        ("--memory fit --sweep x=1,2", "--sweep tries values and --memory fit searches"),
        ("--memory 128Mi:1Gi:1000", "1,000 runs, "),
        ("--memory 128Mi:1Gi:1000", "to go on write --yes"),
    ],
)
def test_wrong_use_gets_one_line(kernel: Kernel, line: str, words: str) -> None:
    """Each mistake names the option and what would be right; nothing runs."""
    kernel.run("x = 1").ok()
    before = kernel.value("(len(fn.runs), str(fn.last_sweep))")
    said = kernel.run(CELL.format(line=line)).stderr
    assert words.lower() in said.lower()
    assert 1 == said.strip().count("\n") + 1
    assert before == kernel.value("(len(fn.runs), str(fn.last_sweep))")


def test_a_line_tells_how_it_stands_and_an_interrupt_keeps_what_was_measured(kernel: Kernel) -> None:
    """One live line for all runs; stopped in the middle, the points so far are shown, and nothing goes on."""
    interrupted: list[int] = []

    def look(reply: Reply) -> None:
        """Interrupt the cell as soon as its line says that one run is over."""
        said = str([content["data"] for kind, content in reply.events if kind.startswith("comm_")])
        if not interrupted and "1 of 3 done" in said.replace("\\xa0", " "):
            interrupted.append(len(reply.events))
            kernel.manager.interrupt_kernel()

    reply = kernel.run("%%flyte_task --cpu 0.5 --sweep x=0,60,61\nimport time\ntime.sleep(x)", meanwhile=look)
    assert "ActionAbortedError" == reply.ename
    assert "interrupted after 1 of 3 runs" in reply.shown_text
    assert (1, True) == kernel.value("(len(fn.last_sweep.points), fn.last_sweep.interrupted)")
    lines = [content["data"].get("text/plain", "") for kind, content in reply.events if kind == "display_data"]
    assert any("sweep of cell is running" in line for line in lines)


def test_tab_offers_inputs_and_the_help_tells_of_sweeps(kernel: Kernel) -> None:
    """After --sweep come the notebook's variables, after --memory a range."""
    kernel.run("alpha = 1").ok()
    assert "alpha=" in kernel.complete("%%flyte_task --sweep al")
    assert "128Mi:1Gi:8" in kernel.complete("%%flyte_task --memory 1")
    assert "--sweep x=1,2,4,8" in kernel.paged("%%flyte_task?")
