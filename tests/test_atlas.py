"""The error atlas raises each error class and recovers from it, and what arrives is what ``docs/errors.md`` says."""

from __future__ import annotations

import inspect
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import documents
import flyte.errors
import pytest

from flyte_notebook import catalogue, errors

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]

HERE = Path(__file__).resolve().parent
CHAPTER = HERE.parent / "notebooks" / "07_error_atlas.ipynb"
DOCS = HERE.parent / "docs" / "errors.md"
CARD = "application/vnd.flyte-notebook.failure+json"
CELL_BOUND_S = 60
CLEANING_BOUND_S = 10
"""How long a session may take to remove its files after its kernel has ended."""

OWN: Final = ("UnschedulableError",)
"""Classes of this package, which the atlas shows, too."""

SAME_CLASS: Final = {"ActionAbortedError": "RunAbortedError"}
"""Names of one class, which share a section: the other name by the one that the ids of the cells have."""

BY_REFERENCE_ONLY: Final = {
    "CustomError": "RuntimeUserError",
    "RetriesExhaustedError": "RuntimeUserError",
    "TaskInterruptedError": "RuntimeSystemError",
}
"""Classes without a row for the default semantics: the class with which they arrive by default."""

BEYOND_THE_REFERENCE: Final = {
    "UnschedulableError": ("UnschedulableError", "user", "Unschedulable"),
    "NonRecoverableError": ("RuntimeUserError", "user", "NonRecoverableError"),
    "MaxRuntimeExceededError": ("MaxRuntimeExceededError", "user", "MaxRuntimeExceededError"),
    "MaxQueuedTimeExceededError": ("MaxQueuedTimeExceededError", "user", "MaxQueuedTimeExceededError"),
    "DeadlineExceededError": ("DeadlineExceededError", "user", "DeadlineExceededError"),
    "RestrictedTypeError": ("RestrictedTypeError", "user", "RestrictedTypeUsage"),
    "InvalidPackageError": ("InvalidPackageError", "user", "InvalidPackageError"),
    "GPUFaultError": ("GPUFaultUserError", "user", "GpuXidError"),
    "GPUFaultUserError": ("GPUFaultUserError", "user", "GpuXidError"),
    "GPUFaultSystemError": ("GPUFaultSystemError", "system", "GpuEccUncorrectable"),
    "AppleSiliconError": ("AppleSiliconNotAvailableError", "user", "APPLE_SILICON_NOT_AVAILABLE"),
    "AppleSiliconNotAvailableError": ("AppleSiliconNotAvailableError", "user", "APPLE_SILICON_NOT_AVAILABLE"),
    "AppleSiliconHostExecFailedError": ("AppleSiliconHostExecFailedError", "user", "APPLE_SILICON_HOST_EXEC_FAILED"),
    "AppleSiliconDaemonStartFailedError": (
        "AppleSiliconDaemonStartFailedError",
        "user",
        "APPLE_SILICON_DAEMON_START_FAILED",
    ),
    "AppleSiliconDaemonOOMError": ("AppleSiliconDaemonOOMError", "user", "APPLE_SILICON_DAEMON_OOM"),
    "AppleSiliconModelNotFoundError": ("AppleSiliconModelNotFoundError", "user", "APPLE_SILICON_MODEL_NOT_FOUND"),
    "AppleSiliconBridgeUnreachableError": (
        "AppleSiliconBridgeUnreachableError",
        "user",
        "APPLE_SILICON_BRIDGE_UNREACHABLE",
    ),
    "CodeBundleError": ("CodeBundleError", "user", "CodeBundleError"),
    "ParameterMaterializationError": ("ParameterMaterializationError", "user", "ParameterMaterializationError"),
    "ResourceExhaustedError": ("RuntimeUserError", "user", "SlowDownError"),
    "RemoteTaskNotFoundError": ("RemoteTaskNotFoundError", "user", "RemoteTaskNotFoundError"),
    "RemoteTaskUsageError": ("RemoteTaskUsageError", "user", "RemoteTaskUsageError"),
    "ConditionTimedoutError": ("RuntimeUserError", "user", "ConditionTimedoutError"),
    "ConditionFailedError": ("RuntimeUserError", "user", "ConditionFailedError"),
    "ConditionNotFoundError": ("RuntimeUserError", "user", "ConditionNotFoundError"),
    "ConditionAlreadyExistsError": ("RuntimeUserError", "user", "ConditionAlreadyExistsError"),
    "SyncTaskCallInAsyncContextError": ("RuntimeUserError", "user", "SyncTaskCallInAsyncContextError"),
    "TraceDoesNotAllowNestedTasksError": ("RuntimeUserError", "user", "TraceDoesNotAllowNestedTasksError"),
}
"""Class, kind and code that arrive by default, for the classes that have no row in ``docs/errors.md``."""

SDK: Final = {
    name
    for name, thing in vars(flyte.errors).items()
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == flyte.errors.__name__
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table in ``docs/errors.md``."""

    promised: str
    arrives: tuple[str, str, str]
    simulated: bool
    semantics: str


@dataclass(slots=True)
class Section:
    """One section of the atlas: the names in its heading, its text, and its cells that ran, by id."""

    names: tuple[str, ...]
    text: str
    cells: dict[str, Any] = field(default_factory=dict)

    @property
    def raising(self) -> list[Any]:
        """The cells that raise the error."""
        return [cell for name, cell in self.cells.items() if re.fullmatch(rf"raise-{self.names[0]}(-\w+)?", name)]

    @property
    def recovering(self) -> Any:
        """The cell that recovers."""
        return self.cells[f"recover-{self.names[0]}"]


def _rows() -> list[Row]:
    """Return the rows of the table in ``docs/errors.md``."""
    rows = []
    for line in DOCS.read_text("utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip().strip("`").replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        promised, _how, class_name, kind, code, _worker, _message, real, semantics = cells
        rows.append(Row(promised, (class_name, kind, code), real.startswith("simulated"), semantics))
    return rows


def _default_rows() -> dict[str, list[Row]]:
    """Return the rows by class: those for the default semantics, and for a class without such a row all of its rows."""
    by_class: dict[str, list[Row]] = {}
    for row in _rows():
        by_class.setdefault(row.promised, []).append(row)
    return {name: [row for row in rows if row.semantics == "cluster"] or rows for name, rows in by_class.items()}


DOCUMENTED: Final = _default_rows()
NAMES: Final = sorted({*DOCUMENTED, *SDK, *OWN})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give two empty directories: the one that the notebook runs in, and the one for temporary files."""
    return {"cwd": tmp_path_factory.mktemp("cwd"), "tmp": tmp_path_factory.mktemp("t")}


@pytest.fixture(scope="module")
def executed(places: dict[str, Path]) -> Any:
    """Run the atlas in a kernel of its own. A cell that fails without being tagged for it raises its error."""
    notebook = documents.read(CHAPTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(places["tmp"]))
        documents.execute(notebook, timeout=CELL_BOUND_S, resources={"metadata": {"path": str(places["cwd"])}})
    return notebook


@pytest.fixture(scope="module")
def sections(executed: Any) -> dict[str, Section]:
    """Give the sections of the atlas that ran, by each name in their headings."""
    found: dict[str, Section] = {}
    section: Section | None = None
    for cell in executed.cells:
        heading = cell.source.partition("\n")[0] if cell.cell_type == "markdown" else ""
        if heading.startswith("### "):
            names = tuple(re.findall(r"`(\w+)`", heading))
            assert f"about-{names[0]}" == cell.id
            section = Section(names, cell.source)
            assert not found.keys() & set(names), "a class has two sections"
            found.update(dict.fromkeys(names, section))
        elif heading.startswith("#"):
            section = None
        elif section is not None and cell.cell_type == "code":
            section.cells[cell.id] = cell
    return found


def test_every_class_has_a_section(sections: dict[str, Section]) -> None:
    """Those of the published reference, those of the installed SDK and our own; and no section is about another."""
    sys.path.append(str(HERE / "errors"))
    from reference_cases import CASES  # noqa: PLC0415 - it is in the folder of other tests

    assert {case.promised for case in CASES} == set(DOCUMENTED)
    assert set(NAMES) == set(sections)
    for other, name in SAME_CLASS.items():
        assert getattr(errors, other) is getattr(errors, name)
        assert sections[other] is sections[name]


def test_each_class_has_an_expectation() -> None:
    """A class has a row in the documentation or a line in this file, and not both."""
    assert set(NAMES) - set(DOCUMENTED) - set(SAME_CLASS) == set(BEYOND_THE_REFERENCE)
    assert set(BY_REFERENCE_ONLY) == {name for name, rows in DOCUMENTED.items() if rows[0].semantics != "cluster"}


@pytest.mark.parametrize("name", NAMES)
def test_the_error_that_arrives_is_the_documented_one(sections: dict[str, Section], name: str) -> None:
    """Class, kind and code on the cards are those of ``docs/errors.md``, and the class itself was raised."""
    name = SAME_CLASS.get(name, name)
    expected = {row.arrives for row in DOCUMENTED[name]} if name in DOCUMENTED else {BEYOND_THE_REFERENCE[name]}
    arrived = set()
    for cell in sections[name].raising:
        failure, said = _card(cell)
        arrived.add((failure["error"], failure["kind"], failure["code"]))
        assert failure["error"] == _error(cell).ename
        is_one = issubclass(getattr(errors, failure["error"]), getattr(errors, name))
        assert is_one or re.search(rf"\b[Rr]aised\s+{name}\b", said), said
    assert expected == arrived


@pytest.mark.parametrize("name", NAMES)
def test_the_cell_that_recovers_catches_the_error_and_succeeds(sections: dict[str, Section], name: str) -> None:
    """It says what it caught, once for each cell that raises; it has a value, does not fail and is not meant to."""
    section = sections[name]
    name = SAME_CLASS.get(name, name)
    cell = section.recovering
    assert _error(cell) is None
    assert not cell.metadata.get("tags")
    assert 1 == sum(output.output_type == "execute_result" for output in cell.outputs)
    caught = re.findall(r"^caught (\w+)", _stream(cell, "stdout"), flags=re.MULTILINE)
    assert len(section.raising) == len(caught)
    arrived = {_error(one).ename for one in section.raising}
    for class_name in caught:
        assert class_name in {name, BY_REFERENCE_ONLY.get(name)} or class_name in arrived


@pytest.mark.parametrize("name", NAMES)
def test_a_section_says_how_to_recover(sections: dict[str, Section], name: str) -> None:
    """It has a sentence that says when, and one that says what to do."""
    _heading, when, *more = sections[name].text.split("\n\n")
    assert when.endswith(".")
    assert more[-1].startswith("**Recover:** ")
    assert more[-1].endswith(".")


def test_simulated_are_those_that_the_documentation_calls_so(sections: dict[str, Section]) -> None:
    """For a class without a row in the table, the catalogue says whether a local run can really cause it."""
    marked = {name for name, section in sections.items() if "**Simulated:** " in section.text}
    simulated = {name for name, rows in DOCUMENTED.items() if all(row.simulated for row in rows)}
    simulated |= {name for name in BEYOND_THE_REFERENCE if not catalogue.explain(name).real_here}
    assert simulated == marked


def test_the_cells_that_fail_are_those_that_raise(executed: Any, sections: dict[str, Section]) -> None:
    """Tagged, failed and called so are the same cells, at least one in each section."""
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    named = {cell.id for cell in cells if cell.id.startswith("raise-")}
    assert named == {cell.id for cell in cells if "raises-exception" in cell.metadata.get("tags", ())}
    assert named == {cell.id for cell in cells if _error(cell) is not None}
    assert named == {cell.id for section in sections.values() for cell in section.raising}
    assert [] == [name for name, section in sections.items() if not section.raising]


def test_nothing_disturbs_the_reader(executed: Any) -> None:
    """No cell writes to stderr, and none shows a warning of Flyte's log."""
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert {} == {cell.id: said for cell in cells if (said := _stream(cell, "stderr"))}
    shown = {cell.id: output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.outputs}
    assert [] == [name for name, text in shown.items() if "WARNING" in text]


def test_nothing_is_left_behind(executed: Any, places: dict[str, Path]) -> None:
    """No file of the notebook or of its tasks is left where it ran, nor where temporary files go."""
    until = time.monotonic() + CLEANING_BOUND_S
    while _files(places) and time.monotonic() < until:
        time.sleep(0.1)
    assert [] == _files(places)


def _files(places: dict[str, Path]) -> list[Path]:
    return [path for place in places.values() for path in place.rglob("*") if path.is_file()]


def _card(cell: Any) -> tuple[dict[str, Any], str]:
    """Return what the one card of a cell says, for tools and as text."""
    (found,) = (output.data for output in cell.outputs if CARD in output.get("data", {}))
    return dict(found[CARD]), str(found["text/plain"])


def _error(cell: Any) -> Any:
    return next((output for output in cell.outputs if output.output_type == "error"), None)


def _stream(cell: Any, name: str) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == name)
