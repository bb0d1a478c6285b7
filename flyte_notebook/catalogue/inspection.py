"""Reads facts about error classes from the installed SDK: kind, code, signature, bases, first sentence."""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flyte_notebook import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.catalogue.explanation import Kind

_PLACEHOLDER = "..."


def sdk_classes() -> dict[str, type[BaseException]]:
    """Return every error class that `flyte_notebook.errors` offers, by its own name: the SDK's, and our own."""
    found: dict[str, type[BaseException]] = {}
    for thing in vars(errors).values():
        if isinstance(thing, type) and issubclass(thing, (errors.BaseRuntimeError, errors.ActionNotFoundError)):
            found[thing.__name__] = thing
    return found


def kind_of(cls: type[BaseException]) -> Kind:
    """Return the kind that a class fixes; ``any`` when it is an argument, ``none`` for a class outside of the tree."""
    if not issubclass(cls, errors.BaseRuntimeError):
        return "none"
    if "kind" in _parameters(cls):
        return "any"
    kind = getattr(_sample(cls), "kind", None)
    return kind if kind in {"user", "system", "unknown"} else "any"


def fixed_code(cls: type[BaseException]) -> str | None:
    """Return the default code of a class's errors, ``None`` if the code that raises them has to set it."""
    code = getattr(_sample(cls), "code", None)
    return None if code is None or code == _PLACEHOLDER else str(code)


def signature_of(thing: Any) -> str:  # noqa: ANN401 - a class or a function
    """Return how a class or a function is called."""
    signature = _signature(thing)
    return f"{thing.__name__}{'(*args)' if signature is None else signature}"


def required_of(cls: type[BaseException]) -> tuple[str, ...]:
    """Return the names of the required arguments of a class, in order."""
    return tuple(_required(cls))


def bases_of(cls: type[BaseException]) -> tuple[str, ...]:
    """Return the names of the classes that catch this one, nearest first, up to the first that is not an error."""
    return tuple(base.__name__ for base in cls.__mro__[1:] if issubclass(base, Exception))


def first_sentence(thing: object) -> str | None:
    """Return the first sentence of an object's docstring, ``None`` when it has none."""
    text = getattr(thing, "__doc__", None)
    words = " ".join(text.split()) if isinstance(text, str) else ""
    return re.split(r"(?<=\.)\s", words, maxsplit=1)[0] or None


def _sample(cls: type[BaseException]) -> BaseException | None:
    """Return an instance made with placeholders, ``None`` when the class refuses them."""
    try:
        return cls(*["user" if name == "kind" else _PLACEHOLDER for name in _required(cls)])
    except Exception:  # noqa: BLE001 - a class of the user may raise anything
        return None


def _required(cls: type[BaseException]) -> Iterator[str]:
    for name, parameter in _parameters(cls).items():
        positional = parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        if positional and parameter.default is parameter.empty:
            yield name


def _parameters(cls: type[BaseException]) -> dict[str, inspect.Parameter]:
    signature = _signature(cls)
    return {} if signature is None else dict(signature.parameters)


def _signature(thing: Any) -> inspect.Signature | None:  # noqa: ANN401 - a class or a function
    # A class without its own __init__ takes the arguments of the built-in, for which `inspect` has no useful answer.
    if inspect.isclass(thing) and not inspect.isfunction(thing.__init__):
        return None
    # Annotations may be text, with names that are not defined here.
    for evaluate in (True, False):
        with suppress(Exception):
            return inspect.signature(thing, eval_str=evaluate).replace(return_annotation=inspect.Signature.empty)
    return None
