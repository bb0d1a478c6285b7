"""What an exercise is, and how an answer is judged: step by step, up to the first that does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from flyte_notebook.views.markup import section, with_code
from flyte_notebook.views.style import theme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flyte_notebook.history import Run

    Judge = Callable[[Sequence[Run], Mapping[str, object]], Iterable["Step"]]
    """Takes the runs of the exercise's task, the newest last and at least one, and the values that were given."""

_CLASS: Final = "flyte-notebook-answer"
_STYLE: Final = theme(_CLASS, layer=1) + (
    f".{_CLASS}{{max-width:60rem;margin:.25rem 0;border-left:.3rem solid #8a6d00;border-radius:.3rem}}\n"
    f".{_CLASS}[data-passed]{{border-left-color:#2e7d32}}\n"
    f".{_CLASS} .fnb-body{{padding:.4rem .9rem}}\n"
    f".{_CLASS} .fnb-body p{{margin:0 0 .2rem}}\n"
    f".{_CLASS} .fnb-body ul{{list-style:none;margin:0;padding:0}}\n"
    f".{_CLASS} .fnb-body code{{background:var(--fnb-code);padding:0 .25rem;border-radius:.2rem}}\n"
)


class Step(NamedTuple):
    """One thing that an answer needs: whether it holds, what is right then, and what is missing otherwise.

    ``right`` is empty where there is nothing to say.
    """

    holds: bool
    right: str
    missing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """An exercise: ``task`` is the name of the task that its runs run, ``asks`` are the values that `check` takes.

    ``hints`` are two, the second says more.
    """

    name: str
    title: str
    task: str
    judge: Judge
    hints: tuple[str, str]
    asks: tuple[str, ...] = ()

    def is_about(self, run: Run) -> bool:
        """Whether a run counts: one of its task that is no part of an experiment."""
        return run.task_name.rpartition(".")[2] == self.task and not run.of_experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is right about an answer, and what is missing: a sentence, empty when it passed."""

    exercise: Exercise
    right: tuple[str, ...] = ()
    missing: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def __str__(self) -> str:
        return "\n".join([self._title, *(f"  ✓ {words}" for words in self.right), *self._missing])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>✓ {with_code(words)}</li>" for words in self.right)
        missing = "".join(f"<p>{with_code(words.strip())}</p>" for words in self._missing)
        body = f"<p><strong>{with_code(self._title)}</strong></p><ul>{rows}</ul>{missing}"
        passed = " data-passed" if self.passed else ""
        attributes = f' data-exercise="{self.exercise.name}"{passed}'
        return section(_CLASS, f"Exercise {self.exercise.name}", _STYLE, body, attributes)

    @property
    def _title(self) -> str:
        return f"Exercise {self.exercise.name}: {'passed' if self.passed else 'not yet'}. {self.exercise.title}."

    @property
    def _missing(self) -> list[str]:
        if self.passed:
            return []
        return [f"  ✗ {self.missing}", f'  Hints: `course.hint("{self.exercise.name}")`']


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One hint for an exercise."""

    exercise: Exercise
    level: int

    def __str__(self) -> str:
        more = "" if self.level == len(self.exercise.hints) else " Call it again for another one."
        return f"Hint {self.level} of {len(self.exercise.hints)}: {self.exercise.hints[self.level - 1]}{more}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        name = self.exercise.name
        return section(_CLASS, f"Hint for exercise {name}", _STYLE, f"<p>{with_code(str(self))}</p>")


def judged(exercise: Exercise, runs: Sequence[Run], given: Mapping[str, object]) -> Answer:
    """Return what is right about an answer, up to the first thing that is missing. Pure."""
    right: list[str] = []
    for step in _ran(exercise, runs) or exercise.judge(runs, given):
        if not step.holds:
            return Answer(exercise=exercise, right=tuple(right), missing=step.missing)
        right += filter(None, [step.right])
    return Answer(exercise=exercise, right=tuple(right))


def _ran(exercise: Exercise, runs: Sequence[Run]) -> tuple[Step, ...]:
    """Return the one step that is missing when there is no run to judge."""
    if not runs:
        missing = f"Nothing has run as `{exercise.task}` yet. Run the cells above first, then this one again."
        return (Step(holds=False, right="", missing=missing),)
    if not runs[-1].actions or runs[-1].actions[0].outcome is None:
        missing = f"`{exercise.task}` is still running. Wait for its end, then run this cell again."
        return (Step(holds=False, right="", missing=missing),)
    return ()
