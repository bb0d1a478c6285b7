"""From a class, an instance or a name to its `Explanation`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from flyte_notebook import errors
from flyte_notebook.catalogue import builtin
from flyte_notebook.catalogue.explanation import Explanation, Words
from flyte_notebook.catalogue.inspection import (
    bases_of,
    first_sentence,
    fixed_code,
    kind_of,
    sdk_classes,
    signature_of,
)
from flyte_notebook.catalogue.mistakes import classic_mistake
from flyte_notebook.catalogue.words import POLLING, REMOTE_TASKS, WORDS
from flyte_notebook.errors import failure_in

_ABORTED: Final = "RunAbortedError"
_REMOTE_TASKS: Final = "ReferenceTaskError"
_POLLING: Final = ("silence_grpc_polling_error", "silence_polling_error")
_SUGGESTED: Final = 2


def explain(thing: object) -> Explanation:
    """Explain an error: what it means, when it is raised on a cluster and here, how to recover in code.

    ``thing`` is a class, an instance, a name in any case of letters (``"OOMError"``, ``"flyte.errors.OOMError"``, a
    code such as ``"OOMKilled"``), the tuple ``ReferenceTaskError`` or the polling-error handler. Python's own
    exceptions, and yours, are explained too: how they arrive when a task raises them. Raises LookupError for an unknown
    name, with the closest known ones, and TypeError for anything else.
    """
    if isinstance(thing, str):
        return _by_name(thing)
    if isinstance(thing, BaseException):
        return _instance(thing)
    if isinstance(thing, tuple) and thing == errors.ReferenceTaskError:
        return _reference_task()
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return _class(thing)
    if inspect.isfunction(thing) and thing is errors.silence_grpc_polling_error:
        return _polling(thing.__name__)
    raise TypeError(f"explain takes an error class, an error, or the name of one, not {type(thing).__name__}")


def names() -> tuple[str, ...]:
    """Return the names of Flyte that can be explained, sorted, for completion."""
    return tuple(sorted({*sdk_classes(), *_POLLING, _ABORTED, _REMOTE_TASKS}))


def _by_name(said: str) -> Explanation:
    name = said.strip().rpartition(".")[2].lower()
    if name in _HAND_MADE:
        return _HAND_MADE[name]()
    classes = {key.lower(): cls for key, cls in sdk_classes().items()}
    built_in = None if name in classes else builtin.named(name)
    if built_in is not None:
        return builtin.explained(built_in)
    cls = classes.get(name) or _coded(name)
    return _unknown(said) if cls is None else _class(cls)


def _coded(code: str) -> type[BaseException] | None:
    """Return the class that usually has a code; the first one where several have it."""
    for name, cls in sdk_classes().items():
        known = (*WORDS[name].codes, fixed_code(cls)) if name in WORDS else (fixed_code(cls),)
        if code in {one.lower() for one in known if one}:
            return cls
    return None


def _unknown(said: str) -> Explanation:
    known = {name.lower(): name for name in names()}
    close = difflib.get_close_matches(said.strip().rpartition(".")[2].lower(), known, n=_SUGGESTED, cutoff=0.6)
    hint = f"did you mean {' or '.join(known[name] for name in close)}?" if close else "fn.errors has all names"
    raise LookupError(f"there is no error called {said!r}; {hint}")


def _instance(error: BaseException) -> Explanation:
    """Return the meaning of the class, with the known facts about this instance."""
    explanation = _class(type(error))
    headline = getattr(failure_in(error), "headline", None)
    code = getattr(error, "code", None)
    if isinstance(code, str) and code:
        explanation = replace(explanation, codes=(code,))
        recover = builtin.arriving(code) if type(error) is errors.RuntimeUserError else None
        if recover is not None:
            explanation = replace(
                explanation, recover=recover, related=tuple(dict.fromkeys((code, *explanation.related)))
            )
    mistake = classic_mistake(error)
    if mistake is not None:
        explanation = replace(explanation, recover=builtin.WRONG_CALL)
    facts = " ".join(part for part in (headline, mistake) if part)
    return replace(explanation, facts=facts or None)


def _class(cls: type[BaseException]) -> Explanation:
    if not issubclass(cls, (errors.BaseRuntimeError, errors.ActionNotFoundError)):
        return builtin.explained(cls)
    documented = next(base for base in cls.__mro__ if base.__name__ in WORDS)
    words = WORDS[documented.__name__]
    if documented is cls:
        return _from_words(cls, words)
    # A class without a text in the catalogue: a user's own, or one that is new in the SDK.
    own = first_sentence(cls) if cls.__doc__ != documented.__doc__ else None
    base = f"It is a {documented.__name__}: {words.meaning}"
    return replace(
        _from_words(cls, words),
        meaning=f"{own} {base}" if own else base,
        codes=tuple(code for code in (fixed_code(cls),) if code),
        related=tuple(dict.fromkeys((documented.__name__, *words.related))),
    )


def _from_words(cls: type[BaseException], words: Words) -> Explanation:
    fixed = fixed_code(cls)
    known = {*sdk_classes(), _ABORTED, _REMOTE_TASKS}
    return Explanation(
        name=cls.__name__,
        meaning=words.meaning,
        kind=words.kind or kind_of(cls),
        codes=words.codes or (() if fixed is None else (fixed,)),
        raised_on_cluster=words.on_cluster,
        raised_here=words.here,
        real_here=words.real_here,
        recover=words.recover,
        prevent=words.prevent,
        related=tuple(name for name in words.related if name in known or builtin.named(name)),  # older SDKs lack some
        signature=signature_of(cls),
        bases=bases_of(cls),
    )


def _run_aborted() -> Explanation:
    explanation = _class(errors.RunAbortedError)
    meaning = f"The reference's name for {explanation.name}. {explanation.meaning}"
    related = tuple(name for name in (explanation.name, *explanation.related) if name != _ABORTED)
    return replace(explanation, name=_ABORTED, meaning=meaning, related=related)


def _reference_task() -> Explanation:
    thing: Any = errors.ReferenceTaskError
    classes = thing if isinstance(thing, tuple) else (thing,)
    return Explanation(
        name=_REMOTE_TASKS,
        meaning=REMOTE_TASKS.meaning,
        kind="user",
        codes=tuple(code for code in map(fixed_code, classes) if code),
        raised_on_cluster=REMOTE_TASKS.on_cluster,
        raised_here=REMOTE_TASKS.here,
        real_here=REMOTE_TASKS.real_here,
        recover=REMOTE_TASKS.recover,
        prevent=REMOTE_TASKS.prevent,
        related=REMOTE_TASKS.related,
        signature=f"{_REMOTE_TASKS} = ({', '.join(cls.__name__ for cls in classes)})",
        bases=bases_of(classes[0]),
    )


def _polling(name: str) -> Explanation:
    return Explanation(
        name=name,
        meaning=POLLING.meaning,
        kind="none",
        codes=(),
        raised_on_cluster=POLLING.on_cluster,
        raised_here=POLLING.here,
        real_here=POLLING.real_here,
        recover=POLLING.recover,
        prevent=POLLING.prevent,
        related=POLLING.related,
        signature=f"{name}(loop, context)",
    )


_HAND_MADE: Final[dict[str, Callable[[], Explanation]]] = {
    _ABORTED.lower(): _run_aborted,
    _REMOTE_TASKS.lower(): _reference_task,
    **{name: partial(_polling, name) for name in _POLLING},
}
"""Names that are not classes, or not in every SDK."""
