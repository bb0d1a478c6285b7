"""The exercises of the course: `check` judges one by the facts of its run, `hint` helps with it.

The chapters are ``notebooks/*.ipynb``, the exercises ``notebooks/exercises/*.ipynb``::

    from flyte_notebook import course

    course.check("1a")
    course.hint("1a")      # again for a second hint
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches

from flyte_notebook.course.exercise import Answer, Exercise, Hint, judged
from flyte_notebook.course.exercises import EXERCISES
from flyte_notebook.sdk import enforcement

__all__ = ["Answer", "Exercise", "Hint", "check", "exercises", "hint"]

exercises: tuple[Exercise, ...] = EXERCISES
"""All exercises, in the order of the course."""

_hinted: Counter[str] = Counter()


def check(name: str, **given: object) -> Answer:
    """Judge an exercise by its last runs in this kernel, and by the values that it asks for.

    Experiments about limits (fit, sweep) do not count as runs. Raises ValueError for a name that no exercise has, and
    TypeError for a value that the exercise does not ask for.
    """
    exercise = _named(name)
    unknown = sorted(given.keys() - set(exercise.asks))
    if unknown:
        asked = ", ".join(f"{one}=..." for one in exercise.asks) or "no values"
        raise TypeError(f"exercise {name} takes {asked}, not {unknown[0]}")
    runs = [run for run in enforcement.history if exercise.is_about(run)]
    return judged(exercise, runs, given)


def hint(name: str, level: int | None = None) -> Hint:
    """Return a hint for an exercise: the first, and when it is asked for again the second, which says more.

    ``level`` is 1 or 2. Raises ValueError for a name that no exercise has, and for another level.
    """
    exercise = _named(name)
    if level is None:
        _hinted[name] += 1
        level = min(_hinted[name], len(exercise.hints))
    if not 1 <= level <= len(exercise.hints):
        raise ValueError(f"an exercise has hints 1 and {len(exercise.hints)}, not {level}")
    return Hint(exercise=exercise, level=level)


def _named(name: str) -> Exercise:
    known = {exercise.name: exercise for exercise in EXERCISES}
    if name in known:
        return known[name]
    close = get_close_matches(str(name), known, n=1)
    said = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    raise ValueError(f"there is no exercise {name}; {said}")
