"""The exercises of the course: right answers pass, starters and plausible wrong answers fail with words that help."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import documents
import pytest

from flyte_notebook import course
from flyte_notebook.course import judges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
FORGET = """from flyte_notebook import course
from flyte_notebook.sdk import enforcement
for _run in list(enforcement.history):
    enforcement.history.forget(_run.name)
"""
PASSED = "passed"
ASKS = {exercise.name: exercise.asks[0] for exercise in course.exercises if exercise.asks}


@dataclass(frozen=True, slots=True)
class Try:
    """An answer to an exercise: texts that are replaced in its cells, and what the check says."""

    exercise: str
    label: str
    said: str
    changes: tuple[tuple[str, str], ...] = ()
    solved: bool = False
    """Whether the changes are made to the solution, not to the starter."""


def wrong(exercise: str, label: str, said: str, *changes: tuple[str, str]) -> Try:
    """Return a wrong answer, as changes to the solution."""
    return Try(exercise, label, said, changes, solved=True)


def right(exercise: str, label: str, *changes: tuple[str, str]) -> Try:
    """Return another right answer, as changes to the solution."""
    return Try(exercise, label, PASSED, changes, solved=True)


AGAIN = 'return await build.override(resources=flyte.Resources(cpu=1, memory="400Mi"))(size)'
CATCH_CODE = 'except flyte.errors.RuntimeUserError as error:\n        if error.code != "KeyError":\n            raise\n'
GATHER = "await asyncio.gather(*map(square, range(10)), return_exceptions=True)"
SUM = "return sum(one for one in ended if not isinstance(one, BaseException))"
FETCH = """    with calls.open("a") as file:
        file.write(".")
    if calls.stat().st_size % 3 != 0:
        raise ConnectionError("the server is busy")
    return "a page"
"""
IN_A_LOOP = """    for _ in range(3):
        with calls.open("a") as file:
            file.write(".")
        if calls.stat().st_size % 3 == 0:
            return "a page"
    raise ConnectionError("the server is busy")
"""

TRIES = [
    Try("1a", "starter", "It failed, OOMError"),
    right("1a", "solution"),
    right("1a", "a little above", ("200Mi", "170Mi")),
    wrong("1a", "far too much", "choose one of at most twice the peak", ("200Mi", "1Gi")),
    wrong("1a", "a shorter list", "its list is shorter now", ("15_000_000", "1_000_000")),
    wrong("1a", "no limit", "It ran without a limit", (" --memory 200Mi", "")),
    Try("1b", "starter", "Give the number of the line"),
    right("1b", "solution"),
    right("1b", "another limit", ("150Mi", "160Mi")),
    wrong("1b", "counted without the first line", "It is not line 3", ("line=4", "line=3")),
    wrong("1b", "the text of the line", "It is not line table", ("line=4", "line='table'")),
    wrong("1b", "enough memory", "it is meant to fail", ("150Mi", "1Gi")),
    Try("2a", "starter", "The error was not caught"),
    right("2a", "solution"),
    right(
        "2a",
        "all errors of a run",
        ("except flyte.errors.OOMError:", "except flyte.errors.RuntimeUserError:"),
    ),
    wrong("2a", "more from the beginning", "there was nothing to catch", ('memory="150Mi"', 'memory="1Gi"')),
    wrong("2a", "Python's class", "The error was not caught", ("flyte.errors.OOMError", "MemoryError")),
    wrong(
        "2a",
        "no second run",
        "did not run again with more memory",
        (AGAIN, "return 0"),
    ),
    wrong("2a", "too little", "that was not enough either", ('memory="400Mi"', 'memory="180Mi"')),
    Try("2b", "starter", "The KeyError ended the run"),
    right("2b", "solution"),
    right(
        "2b",
        "by a match",
        ('if error.code != "KeyError":\n            raise', 'if not error.code.startswith("Key"):\n            raise'),
    ),
    wrong("2b", "Python's class", "arrives as `flyte.errors.RuntimeUserError`", (CATCH_CODE, "except KeyError:\n")),
    wrong("2b", "everything", "The ValueError was swallowed", (CATCH_CODE, "except Exception:\n")),
    wrong(
        "2b",
        "another error instead",
        "The ValueError became",
        ("            raise\n", "            raise LookupError(error)\n"),
    ),
    wrong("2b", "one run only", "No run after that had another error", ('flyte.run(price, "")', "None")),
    Try("3a", "starter", "It failed after 1 attempt"),
    right("3a", "solution"),
    right(
        "3a",
        "by override",
        ("@env.task(retries=2)", "@env.task"),
        ("flyte.run(fetch)", "flyte.run(fetch.override(retries=5))"),
    ),
    wrong("3a", "one retry", "It failed after 2 attempts", ("retries=2", "retries=1")),
    wrong("3a", "a loop of its own", "let Flyte try again", (FETCH, IN_A_LOOP)),
    wrong("3a", "the counter goes on", "leave the task's code as it was", ("% 3 != 0", "% 2 != 0")),
    Try("3b", "starter", "It had 3 attempts"),
    right("3b", "solution"),
    right("3b", "without a cause", (" from error", " from None")),
    wrong("3b", "no retries", "The task has no retries any more", ("retries=2", "retries=0")),
    wrong(
        "3b",
        "a default",
        "It succeeded",
        ('raise flyte.errors.NonRecoverableError(f"{text} is no number") from error', "return 0"),
    ),
    wrong("3b", "another class", "It had 3 attempts", ("flyte.errors.NonRecoverableError(", "RuntimeError(")),
    Try("4", "starter", "The timeout was not caught"),
    right("4", "solution"),
    right("4", "its base class", ("flyte.errors.MaxRuntimeExceededError", "flyte.errors.TaskTimeoutError")),
    wrong(
        "4",
        "Python's class",
        "`TimeoutError` is another class",
        ("flyte.errors.MaxRuntimeExceededError", "TimeoutError"),
    ),
    wrong("4", "nothing returned", "`summary` returned nothing", ('"nothing found in one second"', '""')),
    wrong("4", "fewer pages", "there was nothing to catch", ("search(60)", "search(1)")),
    Try("5", "starter", "calls of `square` ran"),
    right("5", "solution"),
    right(
        "5",
        "without finally",
        ("    try:\n        ended", "    if True:\n        ended"),
        (SUM, "found = sum(one for one in ended if isinstance(one, int))\n        await clean_up()"),
        ("    finally:\n        await clean_up()\n", "        return found\n"),
    ),
    wrong("5", "eight calls", "8 calls of `square` ran, and 0 failed", ("range(10)", "set(range(10)) - {3, 7}")),
    wrong("5", "no clean-up", "`clean_up` did not run", ("        await clean_up()", "        pass")),
    wrong(
        "5",
        "clean-up first",
        "Call it when everything else has ended",
        ("        await clean_up()", "        pass"),
        (f"ended = {GATHER}", f"await clean_up()\n        ended = {GATHER}"),
    ),
    wrong("5", "errors counted", "the sum of the eight results is", (SUM, "return len(ended)")),
    Try("6a", "starter", "At most 30% is asked for"),
    right("6a", "solution"),
    right("6a", "with a fit before", ("%%flyte_task step --memory 190Mi", "%%flyte_task step --memory 175Mi")),
    wrong("6a", "too small", "Its limit is too small", ("190Mi", "100Mi")),
    wrong("6a", "a shorter list", "its list is shorter now", ("15_000_000", "1_000")),
    wrong("6a", "no limit", "It ran without a limit", (" --memory 190Mi", "")),
    Try("6b", "starter", "Memory still grows on that line"),
    right("6b", "solution"),
    right("6b", "no list at all", ("    seen.append(len(words))\n", "")),
    wrong(
        "6b",
        "more memory",
        "it still keeps the words",
        ("192Mi", "3Gi"),
        ("len(words))\n    return", "words)\n    return"),
    ),
    wrong("6b", "fewer pages", "Count the words of all 30,000 pages", ("30_000", "300")),
    wrong(
        "6b",
        "collected by hand",
        "Memory still grows on that line",
        ("seen.append(len(words))", "seen.append(words)"),
    ),
    Try("8", "starter", "An error ended `pipeline`"),
    right("8", "solution"),
    right(
        "8",
        "two classes",
        ("flyte.errors.BaseRuntimeError", "(flyte.errors.RuntimeUserError, flyte.errors.RuntimeSystemError)"),
    ),
    wrong(
        "8",
        "one class",
        "An error ended `pipeline`: RuntimeSystemError",
        ("flyte.errors.BaseRuntimeError", "flyte.errors.RuntimeUserError"),
    ),
    wrong("8", "one left out", "The pipeline met 4 of its 5 faults", ('        ("report", crash()),\n', "")),
    wrong("8", "mended tasks", "The pipeline met 4 of its 5 faults", ('{"price": 3, "size": 4}[column]', "3")),
]


NEEDS = {"2b": ("2a",), "3b": ("3a",)}
"""Exercises whose environment is that of another one."""


def cells_of(exercise: str, *, solved: bool) -> Iterator[tuple[str, str]]:
    """Yield id and text of the cells of code of an exercise, and of what stands above the first one."""
    folder = NOTEBOOKS / ("solutions" if solved else "exercises")
    (path,) = folder.glob(f"0{exercise[0]}_*.ipynb")
    here = True
    for cell in documents.read(path).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            here = cell.source.startswith((f"## {exercise} ", *(f"## {one} " for one in NEEDS.get(exercise, ()))))
        elif cell.cell_type == "code" and here and not cell.source.startswith("%load_ext"):
            yield cell.id, cell.source


@pytest.fixture
def forgotten(kernel: Kernel) -> Kernel:
    """Give the kernel without earlier runs."""
    kernel.run(FORGET).ok()
    return kernel


@pytest.mark.parametrize("one", TRIES, ids=lambda one: f"{one.exercise}-{one.label.replace(' ', '-')}")
def test_an_answer_is_judged_by_its_run(forgotten: Kernel, one: Try) -> None:
    """What is right passes; a starter and what is plausible and wrong fails, with the sentence that helps."""
    if one.exercise == "1b" and sys.version_info >= (3, 16):
        pytest.skip("lines are not known here")
    todo = {before for before, _ in one.changes}
    said = ""
    for name, source in cells_of(one.exercise, solved=one.solved):
        if name.startswith(NEEDS.get(one.exercise, "-")):  # only what is above its first task
            forgotten.run(source.partition("@env.task")[0] if "env = " in source else "").ok()
            continue
        text = source
        for before, after in one.changes:
            if before in text:
                todo.discard(before)
                text = text.replace(before, after)
        reply = forgotten.run(text)
        if f'course.check("{one.exercise}"' in text:
            if reply.status == "error":  # there is no value to give it
                reply = forgotten.run(f'course.check("{one.exercise}", {ASKS[one.exercise]}=None)')
            said = _plain(reply.ok())
    assert not todo, "a text that is to be replaced is in no cell"
    expected = f"Exercise {one.exercise}: {'passed' if one.said == PASSED else 'not yet'}. "
    assert said.startswith(expected), said
    assert one.said in said


def _plain(reply: Any) -> str:
    """Return the value of a cell as text."""
    values = [content["data"]["text/plain"] for kind, content in reply.events if kind == "execute_result"]
    return str(values[-1]) if values else ""


def test_every_exercise_has_answers_of_each_kind() -> None:
    """The starter, two right answers and three wrong ones; each exercise of the table, in its notebook."""
    for exercise in course.exercises:
        tries = [one for one in TRIES if one.exercise == exercise.name]
        assert 1 == sum(not one.solved for one in tries), exercise.name
        assert 2 <= sum(one.said == PASSED for one in tries), exercise.name
        assert 3 <= sum(one.solved and one.said != PASSED for one in tries), exercise.name
        sources = [source for _, source in cells_of(exercise.name, solved=False)]
        assert 1 == sum(f'course.check("{exercise.name}"' in source for source in sources)


def test_every_judge_has_an_exercise() -> None:
    """No function of the module is left over."""
    used = {exercise.judge for exercise in course.exercises}
    public = [thing for name, thing in vars(judges).items() if not name.startswith("_")]
    own = {thing for thing in public if getattr(thing, "__module__", "") == judges.__name__}
    assert own == used


def test_a_check_before_any_run_says_what_to_run(forgotten: Kernel) -> None:
    """And what does not exist, or is not asked for, is a clear error."""
    assert "Nothing has run as `hungry` yet" in _plain(forgotten.run('course.check("1a")').ok())
    assert "there is no exercise 9; there are 1a, 1b, 2a" in forgotten.run('course.check("9")').evalue
    assert "did you mean 1" in forgotten.run('course.check("1")').evalue
    assert "exercise 1a takes no values, not line" in forgotten.run('course.check("1a", line=3)').evalue


def test_hints_come_one_after_the_other(forgotten: Kernel) -> None:
    """The second says more, and is said again when it is asked for once more."""
    first, second, third = (_plain(forgotten.run('course.hint("6b")').ok()) for _ in range(3))
    assert first.startswith("Hint 1 of 2: ")
    assert first.endswith("Call it again for another one.")
    assert second.startswith("Hint 2 of 2: ")
    assert second == third
    assert "hints 1 and 2, not 3" in forgotten.run('course.hint("6b", 3)').evalue


def test_an_answer_is_shown_as_html_and_as_text(forgotten: Kernel) -> None:
    """With its verdict for programs, and every text escaped."""
    forgotten.run("%%flyte_task hungry --memory 100Mi --no-raise\nraise ValueError('<b>')").ok()
    reply = forgotten.run('course.check("1a")').ok()
    (data,) = [content["data"] for kind, content in reply.events if kind == "execute_result"]
    assert 'data-exercise="1a"' in data["text/html"]
    assert "data-passed" not in data["text/html"].partition("<style>")[0]
    assert "&lt;b&gt;" in data["text/html"]
    assert "<b>" not in data["text/html"]


def test_the_notebooks_are_made_of_their_sources() -> None:
    """Chapters, exercises and solutions are what `notebooks/source/make_course.py` makes; none is left over."""
    made = _make_course().learner()
    stored = [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("exercises/*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb")]
    assert set(made) == set(stored)
    for path, notebook in made.items():
        assert _make_course().written(notebook) == path.read_text("utf-8"), f"run make course: {path.name}"


def test_a_clean_copy_keeps_what_a_learner_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make reset`` writes the notebooks again, and moves changed ones aside."""
    maker = _make_course()
    monkeypatch.setattr(maker, "NOTEBOOKS", tmp_path)
    maker.reset()
    changed = tmp_path / "exercises" / "01_first_crash.ipynb"
    clean = changed.read_text("utf-8")
    changed.write_text(clean.replace("100Mi", "300Mi"), "utf-8")
    maker.reset()
    assert clean == changed.read_text("utf-8")
    (kept,) = (tmp_path / "mine").rglob("*.ipynb")
    assert "300Mi" in kept.read_text("utf-8")


def _make_course() -> Any:
    spec = importlib.util.spec_from_file_location("make_course", NOTEBOOKS / "source" / "make_course.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
