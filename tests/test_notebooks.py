"""The chapters do what their text says: run from top to bottom in a real kernel, and exported as ``make demo`` does."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
import pytest

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHAPTERS = ("00_ready", "01_first_crash", "02_catching", "03_retry_or_not", "04_time_and_stopping", "05_many_at_once")
"""The chapters that are about errors; `tests/test_atlas.py` runs the atlas."""

MEMORY = "06_how_much_memory"
CAPSTONE = "08_capstone"
CARD = "application/vnd.flyte-notebook.failure+json"
CELL_BOUND_S = 60
"""A cell of a chapter takes 4 s at most on a machine with nothing else to do."""

MIB = 2**20
OVERSHOOT_BYTES = 200 * MIB
"""How far a watchdog may be behind; the kernel is never."""

FAILING = {
    "01_first_crash": {
        "first-death": ("OOMError", "user", "OOMKilled"),
        "override": ("OOMError", "user", "OOMKilled"),
        "hungry": ("OOMError", "user", "OOMKilled"),
    },
    "02_catching": {
        "run-program": ("OOMError", "user", "OOMKilled"),
        "raised": ("RuntimeUserError", "user", "KeyError"),
    },
    "03_retry_or_not": {
        "once": ("RuntimeUserError", "user", "ConnectionError"),
        "bad-input": ("RuntimeUserError", "user", "NonRecoverableError"),
    },
    "04_time_and_stopping": {
        "timeout": ("MaxRuntimeExceededError", "user", "MaxRuntimeExceededError"),
        "exit": ("RuntimeSystemError", "system", "Interrupted"),
    },
    "05_many_at_once": {"all-or-nothing": ("OOMError", "user", "OOMKilled")},
    "08_capstone": {"first": ("RuntimeUserError", "user", "KeyError")},
}
"""The cells of each chapter that fail: class, kind and code of the error."""

DRAWN = {
    "fit": "flyte-notebook-fit",
    "sweep": "flyte-notebook-sweep",
    "on-oom": "flyte-notebook-growing",
    "leak": "flyte-notebook-card",
    "compare": "flyte-notebook-comparison",
    "save": "flyte-notebook-saved",
    "nested-fit": "flyte-notebook-fit",
}
"""What cells of the chapter about memory draw, in order: the class of the section in HTML."""

ROWS_MIB = 8_000_000 * 8 / MIB
"""What the list of the chapter about memory takes for each ``x``, in MiB."""

LINES_ARE_SEEN = sys.platform == "linux" and sys.version_info[:2] <= (3, 15)
"""Whether the line of a killed task is known here, as the README says."""


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
    def said(self) -> str:
        """All that it displayed and its value, as text."""
        return "\n".join(output.data["text/plain"] for output in self.outputs if "data" in output)

    @property
    def sections(self) -> list[dict[str, str]]:
        """The attributes of the sections that it drew."""
        return _sections("".join(output.get("data", {}).get("text/html", "") for output in self.outputs))

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
def executed() -> dict[str, Any]:
    """Run the chapters about errors, each in a kernel of its own."""
    return {name: _execute(NOTEBOOKS / f"{name}.ipynb") for name in (*CHAPTERS, CAPSTONE)}


@pytest.fixture(scope="module")
def chapters(executed: dict[str, Any]) -> dict[str, dict[str, Cell]]:
    """Give the cells of the chapters about errors that ran, by their ids."""
    return {name: _cells(notebook) for name, notebook in executed.items()}


@pytest.fixture(scope="module")
def ran(chapters: dict[str, dict[str, Cell]]) -> dict[str, Cell]:
    """Give those cells together; of a name that several chapters have, the first."""
    found: dict[str, Cell] = {}
    for cells in chapters.values():
        found = {**cells, **found}
    return found


@pytest.fixture(scope="module")
def memory_executed() -> Any:
    """Run the chapter about memory in a kernel of its own."""
    return _execute(NOTEBOOKS / f"{MEMORY}.ipynb")


@pytest.fixture(scope="module")
def measured(memory_executed: Any) -> dict[str, Cell]:
    """Give the cells of the chapter about memory that ran, by their ids."""
    return _cells(memory_executed)


STORED = sorted(path for folder in ("", "exercises", "solutions") for path in (NOTEBOOKS / folder).glob("*.ipynb"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: str(path.relative_to(NOTEBOOKS)))
def test_a_notebook_is_stored_without_what_a_run_leaves(path: Path) -> None:
    """A stored notebook is valid, has no outputs and no counts, and asks for no kernel but python3."""
    notebook = documents.read(path)
    assert [] == [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert "python3" == notebook.metadata.kernelspec.name
    assert {"kernelspec", "language_info"} == set(notebook.metadata)


def test_the_cells_that_fail_are_those_that_are_meant_to(chapters: dict[str, dict[str, Cell]]) -> None:
    """Tagged and failed are the same cells, so that Run All and ``make demo`` go through to the end."""
    for name, cells in chapters.items():
        meant = set(FAILING.get(name, ()))
        assert meant == {name for name, cell in cells.items() if "raises-exception" in cell.tags}
        assert meant == {name for name, cell in cells.items() if cell.error is not None}


def test_nothing_disturbs_the_reader(chapters: dict[str, dict[str, Cell]]) -> None:
    """No cell writes a warning, but for Flyte's own about each attempt that it retries."""
    for name, cells in chapters.items():
        warnings = _warnings(cells)
        assert name == "03_retry_or_not" or not warnings, name
        assert all(" [flyte] WARNING Task " in text for text in warnings), warnings


@pytest.mark.parametrize(
    ("chapter", "name", "expected"),
    [(chapter, name, error) for chapter, cells in FAILING.items() for name, error in cells.items()],
)
def test_a_failure_shows_its_card_and_a_short_traceback(
    chapters: dict[str, dict[str, Cell]], chapter: str, name: str, expected: tuple[str, str, str]
) -> None:
    """Class, kind and code are those of a cluster; the traceback is a few lines without one of the SDK's frames."""
    cell = chapters[chapter][name]
    failure = cell.failure
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
    assert headline.startswith("ran out of memory (limit 250 MiB) after")
    assert "limit 250 MiB" == limit
    assert re.match(r"Try \d+Mi\. It was using [\d.]+ MiB and asked for 7\d\d MiB more", advice)


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
    """The line on the card is the one on which user code failed, counted with the first line of the cell."""
    line = ran["raised"].failure["line"]
    assert "return sum(prices[fruit] for fruit in basket)" == line["text"].strip()
    assert line["text"].strip() == ran["raised"].source.splitlines()[line["number"] - 1].strip()


def test_a_machine_is_found_ready(ran: dict[str, Cell]) -> None:
    """The first chapter runs a task in a process of its own, and prints what was measured."""
    assert re.fullmatch(r"the task ran in process \d+, this notebook is process \d+\n", ran["notebook"].stdout)
    assert re.fullmatch(
        r"limit    250 MiB\npeak     \d+ MiB, measured by: .+\nbaseline \d+ MiB, what .+\n", ran["facts"].stdout
    )


def test_codes_tell_errors_apart(ran: dict[str, Cell]) -> None:
    """What a task raises is told apart by its code, and the catalogue says more."""
    assert "no price for 'plum'\n" == ran["by-code"].stdout
    assert "RuntimeUserError" in ran["explain"].result


def test_a_retry_gets_past_a_busy_server(ran: dict[str, Cell]) -> None:
    """The second attempt of the run succeeds; a limit grows until its cell passes."""
    assert "'a page'" == ran["retried"].result
    assert "attempt 1: ConnectionError\nattempt 2: succeeded\n" == ran["attempts"].stdout
    assert "15000000" == ran["on-oom"].result


def test_time_is_bounded_and_a_run_can_be_stopped(ran: dict[str, Cell]) -> None:
    """The class that arrives is Flyte's, and what was stopped says by whom."""
    assert ran["caught"].stdout.startswith("MaxRuntimeExceededError - ")
    assert ran["stopped"].stdout.startswith("ActionAbortedError - ")


def test_many_calls_end_as_the_program_says(ran: dict[str, Cell]) -> None:
    """Errors beside results, a second call for the one that was killed, and the clean-up last."""
    assert "[1000, 2000, 4000]" == ran["what-there-is"].result
    assert "[1000, 30000000, 4000]" == ran["each-by-itself"].result
    assert ["many.tidy - succeeded", "many.build - OOMKilled", "many.clean_up - succeeded"] == ran[
        "order"
    ].stdout.splitlines()


@pytest.mark.parametrize("chapter", FAILING)
def test_the_exported_page_has_every_card(executed: dict[str, Any], chapter: str) -> None:
    """The page that nbconvert makes holds one section for each failure, with what it is in data attributes."""
    shown = copy.deepcopy(executed[chapter])
    for cell in shown.cells:
        if cell.cell_type == "code":  # trees of runs hold cards, too
            cell.outputs = [output for output in cell.outputs if CARD in output.get("data", {})]
    page = documents.page_of(shown)
    cards = [found for found in _sections(page) if found.get("class") == "flyte-notebook-card"]
    expected = list(FAILING[chapter].values())
    assert expected == [(card["data-error"], card["data-kind"], card["data-code"]) for card in cards]
    assert [failure["worker"] for failure in _failures(shown)] == [card["data-worker"] for card in cards]


@pytest.mark.parametrize("name", [*CHAPTERS, MEMORY, CAPSTONE, "07_error_atlas", "09_from_notebook_to_cluster"])
def test_a_saved_copy_is_its_chapter_with_static_outputs(name: str) -> None:
    """The same cells, each with outputs that need neither a widget nor a script; failures have their cards."""
    chapter, saved = (documents.read(folder / f"{name}.ipynb") for folder in (NOTEBOOKS, NOTEBOOKS / "saved"))
    assert [(cell.id, cell.source) for cell in chapter.cells] == [(cell.id, cell.source) for cell in saved.cells]
    outputs = [output for cell in saved.cells for output in cell.get("outputs", ())]
    bundles = [output.get("data", {}) for output in outputs]
    assert not [bundle for bundle in bundles if "application/vnd.jupyter.widget-view+json" in bundle]
    assert "<script" not in "".join(bundle.get("text/html", "") for bundle in bundles)
    failed = [cell for cell in saved.cells if "raises-exception" in cell.metadata.get("tags", ())]
    assert all(any(CARD in output.get("data", {}) for output in cell.outputs) for cell in failed)
    assert str(NOTEBOOKS) not in str(outputs)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_saved_copy_has_the_outputs_of_a_run_of_today(executed: dict[str, Any], name: str) -> None:
    """For each cell the same kinds of outputs, with sections of the same classes."""
    saved = documents.read(NOTEBOOKS / "saved" / f"{name}.ipynb")
    for before, now in zip(saved.cells, executed[name].cells, strict=True):
        if before.cell_type == "code":
            assert _shape(before) == _shape(now), before.id


def _shape(cell: Any) -> tuple[set[str], list[str | None]]:
    """Return what kinds of outputs a cell has, and the sections that they draw."""
    kinds = {output.output_type for output in cell.outputs} - {"display_data", "stream"}
    drawn = [_sections(output.get("data", {}).get("text/html", "")) for output in cell.outputs]
    return kinds, [sections[0].get("class") for sections in drawn if sections]


def test_the_chapter_about_memory_goes_through_undisturbed(measured: dict[str, Cell]) -> None:
    """No cell fails, none is meant to, and none writes a warning."""
    assert [] == [name for name, cell in measured.items() if cell.error is not None or cell.tags]
    assert [] == _warnings(measured)


def test_a_fit_finds_the_limit_and_the_name_keeps_it(measured: dict[str, Cell]) -> None:
    """It holds the list and Python; the limit to keep is larger, is shown, and is that of the next call."""
    found = re.fullmatch(r"smallest that passes: (\d+)Mi\nkeep: (\d+)Mi\n", measured["keep"].stdout)
    assert found is not None
    smallest_mib, kept_mib = map(int, found.groups())
    assert 4 * ROWS_MIB < smallest_mib < kept_mib < 512
    said = measured["fit"].said
    assert f"Needs at least {smallest_mib}Mi" in said
    assert f'keep: resources=flyte.Resources(memory="{kept_mib}Mi")' in said
    assert f"`step` has a limit of {kept_mib}Mi from now on" in said
    assert "32000000" == measured["fit"].result == measured["call"].result


def test_a_sweep_shows_the_cliff_and_the_line(measured: dict[str, Cell]) -> None:
    """Twelve points; each ``x`` passes from its limit on, memory grows by the list, and ``x`` stays what it was."""
    (section,) = [one for one in measured["sweep"].sections if one["class"] == DRAWN["sweep"]]
    assert ("12", "12") == (section["data-points"], section["data-planned"])
    slope = re.search(r"memory = [\d.]+ MiB \+ ([\d.]+) MiB × x", measured["sweep"].said)
    assert slope is not None
    assert pytest.approx(ROWS_MIB, rel=0.1) == float(slope[1])
    *passes, predicted = measured["frontier"].stdout.splitlines()
    expected = {"1": 128, "2": 256, "4": 384}
    passing = {x: int(mib) for line in passes for x, mib in re.findall(r"x=(\d) passes with (\d+) MiB", line)}
    if _by_the_kernel(measured):
        assert expected == passing
    else:  # what is polled may come too late
        assert expected.keys() == passing.keys()
        assert all(passing[x] <= expected[x] for x in expected)
    (predicted_mib,) = re.findall(r"^x=16 would take about (\d+) MiB$", predicted)
    assert 16 * ROWS_MIB * 0.9 < int(predicted_mib) < 16 * ROWS_MIB * 1.2
    assert "32000000" == measured["on-oom"].result  # x is still 4


def test_a_limit_grows_until_the_cell_passes(measured: dict[str, Cell]) -> None:
    """Twice as much after each kill, up to what is enough; a watchdog may let one pass that needs too much."""
    said = measured["on-oom"].said
    assert "128 MiB  ✗ killed at the limit" in said
    if _by_the_kernel(measured):
        assert "step passed with 512Mi, after OOM at 128Mi and 256Mi" in said
        (kept_mib,) = re.findall(r'keep: resources=flyte\.Resources\(memory="(\d+)Mi"\)', said)
        assert 256 < int(kept_mib) < 640, "above what was too small, with the margin of a fit over the peak"


def test_a_leak_is_shown_with_its_line_and_stops_nothing(measured: dict[str, Cell]) -> None:
    """The card is that of an OOM at the limit; on one line most of the memory grew, and the next cell prints it."""
    failure = measured["leak"].failure
    assert ("OOMError", "user", "OOMKilled") == (failure["error"], failure["kind"], failure["code"])
    assert 192 * MIB == failure["limits"]["memory_bytes"]
    headline, *grew = measured["grew"].stdout.splitlines()
    assert headline.startswith("ran out of memory (limit 192 MiB) after")
    if not LINES_ARE_SEEN:
        return
    most = max(failure["grew"], key=lambda growth: growth["bytes"])
    assert "words = words.split()" == most["text"].strip()
    assert most["text"] == measured["leak"].source.splitlines()[most["number"] - 1].strip()
    assert 0.6 * failure["memory"]["peak_bytes"] < most["bytes"] < failure["memory"]["peak_bytes"]
    assert "Lines on which memory grew" in measured["leak"].said
    assert re.fullmatch(r"\+1\d\d MiB  .*words = words\.split\(\)", grew[0])


def test_the_repaired_cell_passes_and_stands_beside_the_leak(measured: dict[str, Cell]) -> None:
    """At the same limit, with a peak far below it; the comparison and the saved runs have both, by name and outcome."""
    assert "15000000" == measured["fixed"].result
    _head, before, after = measured["compare"].result.rstrip().splitlines()
    assert re.search(r"^before\s+leak\s.* 192 MiB\s+✗ OOMError$", before.strip())
    assert re.search(r"^after\s+leak\s.* 192 MiB\s+✓ succeeded$", after.strip())
    (peak_mib,) = re.findall(r"([\d.]+) MiB\s+192 MiB", after)
    assert 20 < float(peak_mib) < 100
    _head, *saved = measured["save"].result.rstrip().splitlines()
    assert ["✗ OOMError", "✓ succeeded"] == [" ".join(line.split()[-2:]) for line in saved]


def test_samples_become_a_table_where_pandas_is(measured: dict[str, Cell]) -> None:
    """The samples that were loaded are a frame; without pandas a sentence, and the chapter goes on."""
    if importlib.util.find_spec("pandas") is None:
        assert re.fullmatch(r"'\d+ samples; pandas would make a table of them'", measured["pandas"].result)
    else:
        title, index, *rows = measured["pandas"].result.splitlines()
        assert ("memory_bytes", "time_s") == (title.strip(), index.strip())
        assert 5 == len(rows)


def test_a_fit_of_nested_tasks_is_one_table(measured: dict[str, Cell]) -> None:
    """One row for each task: the caller needs little, what it calls needs its largest list, both less than declared."""
    said = measured["nested-fit"].result
    needs = {}
    for task in ("report", "load"):
        pattern = rf"memory_limits\.{task}\s+512Mi\s+[\d.]+ MiB\s+(\d+)Mi\s+(\d+)Mi\n"
        ((smallest_mib, kept_mib),) = re.findall(pattern, said)
        assert f'flyte.Resources(cpu=1, memory="{kept_mib}Mi")' in said
        assert int(smallest_mib) < int(kept_mib) < 512
        needs[task] = int(smallest_mib)
    assert needs["report"] < 2 * ROWS_MIB < needs["load"]


def test_the_page_about_memory_has_every_picture(memory_executed: Any, measured: dict[str, Cell]) -> None:
    """Each cell draws what its text announces, with a chart in it, and nbconvert's page has all of them in order."""
    for name, drawn in DRAWN.items():
        assert 1 == [section.get("class") for section in measured[name].sections].count(drawn), name
    page = documents.page_of(memory_executed)
    known = set(DRAWN.values())
    sections = [section["class"] for section in _sections(page) if section.get("class") in known]
    assert list(DRAWN.values()) == sections
    without_chart = {"flyte-notebook-saved"}
    for part in re.findall(r"<section .*?</section>", page, flags=re.DOTALL):
        drawn = _sections(part)[0].get("class")
        assert drawn not in known - without_chart or "data:image/" in part, drawn


def _execute(path: Path) -> Any:
    """Run a notebook in a kernel of its own. A cell that fails without being tagged for it raises its error."""
    notebook = documents.read(path)
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    documents.execute(notebook, timeout=CELL_BOUND_S, resources=place)
    return notebook


def _cells(notebook: Any) -> dict[str, Cell]:
    return {
        cell.id: Cell(source=cell.source, tags=tuple(cell.metadata.get("tags", ())), outputs=tuple(cell.outputs))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def _warnings(ran: dict[str, Cell]) -> list[str]:
    return [output.text for cell in ran.values() for output in cell.outputs if output.get("name") == "stderr"]


def _sections(page: str) -> list[dict[str, str]]:
    """Return the attributes of the sections of a page, in order."""
    return [dict(re.findall(r'([a-z-]+)="([^"]*)"', opening)) for opening in re.findall("<section [^>]*>", page)]


def _by_the_kernel(ran: dict[str, Cell]) -> bool:
    return "memory: kernel" in ran["load"].stdout


def _failures(executed: Any) -> list[dict[str, Any]]:
    bundles = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", ())]
    return [bundle[CARD] for bundle in bundles if CARD in bundle]
