"""The tour does what its text says: run from top to bottom in a real kernel, and exported as ``make demo`` does."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from jupyter_core.utils import ensure_event_loop
from nbclient import NotebookClient
from nbconvert import HTMLExporter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TOUR = NOTEBOOKS / "01_error_handling.ipynb"
CARD = "application/vnd.flyte-notebook.failure+json"
CELL_BOUND_S = 60
"""A cell of the tour takes 4 s at most on a machine with nothing else to do."""

MIB = 2**20
OVERSHOOT_BYTES = 200 * MIB
"""How far a watchdog may be behind; the kernel is never."""

FAILING = {
    "first-death": ("OOMError", "user", "OOMKilled"),
    "override": ("OOMError", "user", "OOMKilled"),
    "run-program": ("OOMError", "user", "OOMKilled"),
    "hungry": ("OOMError", "user", "OOMKilled"),
    "raised": ("RuntimeUserError", "user", "KeyError"),
    "timeout": ("MaxRuntimeExceededError", "user", "MaxRuntimeExceededError"),
    "exit": ("RuntimeSystemError", "system", "Interrupted"),
}
"""The cells that fail: class, kind and code of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell that ran."""

    source: str
    tags: tuple[str, ...]
    outputs: tuple[Any, ...]

    @property
    def stdout(self) -> str:
        """What it printed."""
        return "".join(output.text for output in self.outputs if output.get("name") == "stdout")

    @property
    def result(self) -> str:
        """The value of its last line, as text."""
        (found,) = (output.data["text/plain"] for output in self.outputs if output.output_type == "execute_result")
        return str(found)

    @property
    def shown(self) -> str:
        """What it displayed last, as text."""
        displays = [output.data for output in self.outputs if output.output_type == "display_data"]
        return str(displays[-1]["text/plain"])

    @property
    def error(self) -> Any:
        """Its error, ``None`` when it succeeded."""
        return next((output for output in self.outputs if output.output_type == "error"), None)

    @property
    def failure(self) -> dict[str, Any]:
        """What its card says, for tools."""
        (found,) = (output.data[CARD] for output in self.outputs if CARD in output.get("data", {}))
        return dict(found)


@pytest.fixture(scope="module")
def executed() -> Iterator[Any]:
    """Run the tour in a kernel of its own. A cell that fails without being tagged for it fails the fixture."""
    notebook = nbformat.read(TOUR, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    try:
        NotebookClient(notebook, timeout=CELL_BOUND_S, kernel_name="python3", resources=place).execute()
    finally:
        ensure_event_loop().close()  # nbclient keeps one for this thread
    return notebook


@pytest.fixture(scope="module")
def ran(executed: Any) -> dict[str, Cell]:
    """Give the cells that ran, by their ids."""
    return {
        cell.id: Cell(source=cell.source, tags=tuple(cell.metadata.get("tags", ())), outputs=tuple(cell.outputs))
        for cell in executed.cells
        if cell.cell_type == "code"
    }


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_stored_without_what_a_run_leaves(path: Path) -> None:
    """A stored notebook is valid, has no outputs and no counts, and asks for no kernel but python3."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [] == [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert "python3" == notebook.metadata.kernelspec.name
    assert {"kernelspec", "language_info"} == set(notebook.metadata)


def test_the_cells_that_fail_are_those_that_are_meant_to(ran: dict[str, Cell]) -> None:
    """Tagged and failed are the same cells, so that Run All and ``make demo`` go through to the end."""
    assert set(FAILING) == {name for name, cell in ran.items() if "raises-exception" in cell.tags}
    assert set(FAILING) == {name for name, cell in ran.items() if cell.error is not None}


def test_nothing_disturbs_the_reader(ran: dict[str, Cell]) -> None:
    """No cell writes a warning."""
    assert [] == [output.text for cell in ran.values() for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize(("name", "expected"), FAILING.items())
def test_a_failure_shows_its_card_and_a_short_traceback(
    ran: dict[str, Cell], name: str, expected: tuple[str, str, str]
) -> None:
    """Class, kind and code are those of a cluster; the traceback is a few lines without one of the SDK's frames."""
    cell, failure = ran[name], ran[name].failure
    assert expected == (failure["error"], failure["kind"], failure["code"])
    assert expected[0] == cell.error.ename
    assert len(cell.error.traceback) <= 8
    assert "site-packages" not in "\n".join(cell.error.traceback)


@pytest.mark.parametrize(("name", "limit_mib"), [("first-death", 250), ("override", 1024), ("run-program", 1024)])
def test_memory_is_used_up_to_the_limit_and_no_further(ran: dict[str, Cell], name: str, limit_mib: int) -> None:
    """The kernel holds the peak at the limit itself; a watchdog comes a little later."""
    failure = ran[name].failure
    limit_bytes, peak_bytes = failure["limits"]["memory_bytes"], failure["memory"]["peak_bytes"]
    assert limit_mib * MIB == limit_bytes
    if failure["enforcement"]["memory"] == "watchdog":
        assert limit_bytes < peak_bytes < limit_bytes + OVERSHOOT_BYTES
    else:
        assert 0.95 * limit_bytes < peak_bytes <= limit_bytes


def test_the_first_line_says_what_holds_the_limits(ran: dict[str, Cell]) -> None:
    """Loading prints one line with the versions and a word for memory, CPU and time each."""
    line = ran["load"].stdout
    assert re.fullmatch(r"flyte_notebook \S+ · flyte \S+ · Python \S+ · memory: .+ · cpu: .+ · time: yes\n", line)


def test_a_caught_error_tells_what_the_card_tells(ran: dict[str, Cell]) -> None:
    """Class, kind, code and worker are on the exception; its failure has the measured and the allowed."""
    assert re.fullmatch(r"OOMError\nuser\nOOMKilled\n\S+-a0-0\n", ran["catch"].stdout)
    headline, _peak, limit, advice = ran["failure"].stdout.splitlines()
    assert headline.startswith("needed more than 250 MiB; was killed")
    assert "limit 250 MiB" == limit
    assert re.match(r"Try \d+Mi: it had asked for about 7\d\d MiB at once", advice)


def test_two_gibibytes_are_enough(ran: dict[str, Cell]) -> None:
    """The same task succeeds where the text says that it must."""
    assert "100000000\n" == ran["enough"].stdout


def test_the_program_recovers_gives_up_and_runs_its_finally(ran: dict[str, Cell]) -> None:
    """The first death is caught, the second is raised again, and in between comes what ``finally`` does."""
    said = "OOMKilled: trying again with more memory\nOOMKilled again: giving up\nfinally: 42\n"
    assert said == ran["run-program"].stdout


def test_the_tree_shows_every_call(ran: dict[str, Cell]) -> None:
    """The last run is a parent and three calls, each with its own limit and its mark."""
    calls = [line.strip() for line in ran["last"].shown.splitlines() if re.match(r"\s*[✗✓]", line)]
    assert [
        "✗ failure_handling.error_handling",
        "✗ failure_handling.oomer",
        "✗ failure_handling.oomer",
        "✓ failure_handling.always_succeeds",
    ] == [call.partition(" · ")[0] for call in calls]
    assert ["250 MiB", "250 MiB", "1 GiB", "250 MiB"] == [
        re.findall(r"of (\d+ [MG]iB)", call)[0]  # "250 MiB of 250 MiB": peak of limit
        for call in calls
    ]


def test_a_cell_takes_variables_and_gives_variables(ran: dict[str, Cell]) -> None:
    """The value of the last line is shown, assigned names are back, and the name of the cell can be called."""
    assert "9" == ran["cell"].result
    assert "[('wood', 2), ('a', 2), ('woodchuck', 2)]" == ran["outputs"].result
    assert "2" == ran["name"].result


def test_a_cell_that_failed_passes_with_more(ran: dict[str, Cell]) -> None:
    """The rerun gives the value of the last line; a cell in the background gives it to whoever awaits it."""
    assert "15000000" == ran["rerun"].result
    assert "12000000" == ran["awaited"].result


def test_the_error_of_a_cell_names_its_line(ran: dict[str, Cell]) -> None:
    """The line on the card is the one on which user code failed, counted in the cell as it is written."""
    line = ran["raised"].failure["line"]
    assert "return sum(prices[fruit] for fruit in basket)" == line["text"].strip()
    assert line["text"].strip() == ran["raised"].source.splitlines()[line["number"]].strip()  # below the magic's line


def test_the_exported_page_has_every_card(executed: Any) -> None:
    """The page that nbconvert makes holds one section for each failure, with what it is in data attributes."""
    shown = copy.deepcopy(executed)
    for cell in shown.cells:
        if cell.cell_type == "code":  # trees of runs hold cards, too
            cell.outputs = [output for output in cell.outputs if CARD in output.get("data", {})]
    page, _ = HTMLExporter().from_notebook_node(shown)
    attributes = [dict(re.findall(r'([a-z-]+)="([^"]*)"', opening)) for opening in re.findall("<section [^>]*>", page)]
    cards = [found for found in attributes if found.get("class") == "flyte-notebook-card"]
    assert list(FAILING.values()) == [(card["data-error"], card["data-kind"], card["data-code"]) for card in cards]
    assert [failure["worker"] for failure in _failures(executed)] == [card["data-worker"] for card in cards]


def _failures(executed: Any) -> list[dict[str, Any]]:
    bundles = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", ())]
    return [bundle[CARD] for bundle in bundles if CARD in bundle]
