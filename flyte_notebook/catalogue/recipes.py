"""The template of the catalogue's programs: a task that fails, and a parent that catches the error and goes on.

Each program is complete: it has its imports, can be run unchanged, and prints a line that begins with ``caught``.
"""

from __future__ import annotations

from textwrap import indent
from typing import Final

from flyte_notebook import errors

LIMITS_NEEDED: Final = (
    "# Run this after %load_ext flyte_notebook or fn.enable(): the SDK alone neither limits nor isolates tasks.\n"
)

IN_REFERENCE: Final = 'After `fn.enable(semantics="reference")` it is raised as the reference says.'
"""For the classes that the published reference promises and today's backend no longer sends."""

_CAUGHT: Final = 'print("caught", type(error).__name__, {code})\n'
_CODE: Final = "error.code"


def in_a_run(  # noqa: PLR0913 - the blanks of one form
    catch: str,
    *,
    tasks: str,
    attempt: str,
    recover: str,
    imports: str = "",
    before: str = "",
    settings: str = "",
    only_code: str | None = None,
    note: str = "",
    limited: bool = False,
) -> str:
    """Return a program in which a parent task awaits ``attempt``, catches ``catch`` and returns ``recover``.

    ``tasks`` are the tasks it calls, ``imports`` lines of the standard library, ``before`` lines above the
    environment, ``settings`` arguments of it. ``only_code`` lets errors of any other code pass. ``note`` is a comment
    beside the clause. ``limited`` says that the failure needs limits that are enforced.
    """
    handler = (_other_codes_pass(only_code) if only_code else "") + _CAUGHT.format(code=_CODE) + f"return {recover}\n"
    return (
        (LIMITS_NEEDED if limited else "")
        + _imports(catch, imports)
        + (f"{before}\n" if before else "")
        + f'env = flyte.TaskEnvironment(name="explain"{settings and f", {settings}"})\n\n\n'
        + f"{tasks.strip()}\n\n\n"
        + "@env.task\n"
        + "async def main() -> str:\n"
        + f"    try:\n        return {attempt}\n"
        + f"    except {catch} as error:{note and f'  # {note}'}\n{indent(handler, ' ' * 8)}\n\n"
        + "print(flyte.run(main).outputs()[0])\n"
    )


def by_hand_in_a_run(name: str, arguments: str, *, better: str, raises: str | None = None) -> str:
    """Return a program in which a task raises a cluster's error by hand, so that the clause can be tried.

    ``better`` is the argument of the parent's second call, which works. ``raises`` is the class to raise if it is not
    the one to catch.
    """
    tasks = f"""
@env.task
async def step(way: str) -> str:
    if way != "{better}":
        # Raised by hand, to try the clause below: by itself only a cluster raises it.
        raise {raises or name}({arguments})
    return f"done by {{way}}"
"""
    attempt, recover = 'await step("the first way")', f'await step("{better}")'
    return in_a_run(name, tasks=tasks, attempt=attempt, recover=recover)


def in_this_process(  # noqa: PLR0913 - the blanks of one form
    catch: str, *, attempt: str, recover: str, imports: str = "", before: str = "", coded: bool = True
) -> str:
    """Return a program with an error outside of any task: a call raises, and the program goes on.

    ``before`` has the definitions for ``attempt`` and ``recover``; the latter two are complete statements.
    """
    handler = _CAUGHT.format(code=_CODE if coded else "error") + f"{recover.strip()}\n"
    needs_flyte = "flyte." in before + attempt + recover
    before = before.strip()
    return (
        _imports(catch, imports, flyte=needs_flyte).removesuffix("\n")
        + (f"{_gap_above(before)}{before}\n{_gap_below(before)}" if before else "\n")
        + f"try:\n{indent(attempt.strip(), ' ' * 4)}\n"
        + f"except {catch} as error:\n{indent(handler, ' ' * 4)}"
    )


def by_hand(name: str, arguments: str, *, doing: str, recover: str, coded: bool = True) -> str:
    """Return a program in which a function raises by hand an error that nothing in a notebook causes."""
    before = f"""
def {doing}() -> str:
    # Raised by hand, to try the clause below: in a notebook it does not come by itself.
    raise {name}({arguments})
"""
    return in_this_process(name, before=before, attempt=f"{doing}()", recover=recover, coded=coded)


def _imports(catch: str, imports: str, *, flyte: bool = True) -> str:
    lines = f"{imports.strip()}\n\n" if imports else ""
    lines += "import flyte\n" if flyte else ""
    names: dict[str, list[str]] = {}
    for name in catch.strip("()").split(", "):
        names.setdefault(_home(name), []).append(name)
    return lines + "".join(f"from {home} import {', '.join(found)}\n" for home, found in names.items()) + "\n"


def _home(name: str) -> str:
    """Return the module to import a class from: ours for classes that it defines, else the SDK's."""
    made_by = getattr(getattr(errors, name, None), "__module__", None)
    return errors.__name__ if made_by == errors.__name__ else "flyte.errors"


def _other_codes_pass(code: str) -> str:
    return f'if error.code != "{code}":\n    raise\n'


def _gap_above(text: str) -> str:
    if text.startswith(("import ", "from ")):
        return ""
    return "\n\n" if text.startswith(("def ", "async def ", "class ", "@")) else "\n"


def _gap_below(text: str) -> str:
    return "\n\n" if text.rpartition("\n")[2].startswith(" ") else "\n"
