"""The typical mistake: an error class of Flyte is called with a message only, like Python's own classes."""

from __future__ import annotations

import dis
import re
from types import CodeType
from typing import Final

from flyte_notebook.catalogue.inspection import fixed_code, required_of, sdk_classes
from flyte_notebook.catalogue.words import WORDS
from flyte_notebook.errors import failure_in

_WRONG_CALL: Final = re.compile(
    r"(?:\w+\.)*(?P<owner>\w+)\.__init__\(\) "
    r"(?:missing \d+ required \S+ arguments?: |takes (?:from )?\d+ .*positional arguments? but \d+ )"
)
_EXAMPLES: Final = {
    "kind": '"user"',
    "message": '"what happened"',
    "root_cause_message": '"what happened"',
    "var": '"o0"',
    "e": '"what does not fit"',
    "package_name": '"libfoo-dev"',
    "original_error": '"Unable to locate package libfoo-dev"',
}


def classic_mistake(error: BaseException) -> str | None:
    """Return the mistake and the right call when an error is the failed call of an error class of Flyte.

    That is a TypeError, or one from a task: a RuntimeUserError with code ``TypeError``. ``None`` for every other error.
    Pure: it reads only the error and its frames.
    """
    if not isinstance(error, TypeError) and getattr(error, "code", None) != "TypeError":
        return None
    found = _WRONG_CALL.search(str(error))
    classes = sdk_classes()
    if found is None or found["owner"] not in classes:
        return None
    # Python names the class that defines __init__, which may be a base of the called class.
    owner = classes[found["owner"]]
    sharing = [cls for cls in classes.values() if cls.__init__ is owner.__init__]
    called = [cls for cls in sharing if cls.__name__ in _names_at(error)]
    if len(called) == 1:
        return f"{called[0].__name__} needs {_listed(called[0])}: `{right_call(called[0])}`"
    shown = next((cls for cls in sharing if cls.__name__ == "OOMError"), owner)
    return f"{owner.__name__} and the classes on top of it need {_listed(owner)}, for example `{right_call(shown)}`"


def right_call(cls: type[BaseException]) -> str:
    """Return a correct call of an error class, with the usual code."""
    words = WORDS.get(cls.__name__)
    codes = words.codes if words is not None else ()
    examples = {**_EXAMPLES, "code": f'"{next(iter(codes), fixed_code(cls) or "TableEmpty")}"'}
    arguments = ", ".join(examples.get(name, '"..."') for name in required_of(cls))
    return f"{cls.__name__}({arguments})"


def _listed(cls: type[BaseException]) -> str:
    names = [f"`{name}`" for name in required_of(cls)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _names_at(error: BaseException) -> set[str]:
    """Return the names on the line of the error: the last frame's line, or the known one."""
    line = getattr(failure_in(error), "line", None)
    words = set(re.findall(r"\w+", str(getattr(line, "text", ""))))
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return words if trace is None else words | _names_of(trace.tb_frame.f_code, trace.tb_lineno)


def _names_of(code: CodeType, number: int) -> set[str]:
    """Return the names that the instructions of one line use."""
    spans = [(start, end) for start, end, line in code.co_lines() if line == number]
    return {
        step.argval
        for step in dis.get_instructions(code)
        if isinstance(step.argval, str) and any(start <= step.offset < end for start, end in spans)
    }
