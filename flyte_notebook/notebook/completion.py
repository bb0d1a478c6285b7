"""Tab completion in the first line of a ``%%flyte_task`` cell, and after ``%flyte``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyte_notebook.notebook.options import BY_FLAG, MAGIC, OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of the notebook that completion may offer."""

    environments: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def complete(line: str, names: Names | None = None) -> list[str]:
    """Return the candidates at the cursor. ``line`` is the text after ``%%flyte_task`` up to the cursor.

    Each candidate replaces `fragment` of the line.
    """
    names = names or Names()
    start = fragment(line)
    *before, word = line.split(" ")
    flag, equals, _ = word.partition("=")
    option = BY_FLAG.get(flag if equals else next((previous for previous in reversed(before) if previous), ""))
    if option is not None and option.metavar is not None:
        offered = option.choices or option.typical
        if option.completes is not None:
            offered = names.environments if option.completes == "environments" else names.variables
        if option.completes == "inputs":
            name = word.rpartition(" ")[2].removeprefix(f"{flag}=" if equals and flag in BY_FLAG else "")
            return [] if "=" in name else [f"{value}=" for value in names.variables if value.startswith(start)]
        return [value for value in offered if value.startswith(start)]
    if not word.startswith("-"):
        return [] if word else _unused(before)
    return [name for name in _unused(before) if name.startswith(word)]


def fragment(line: str) -> str:
    """Return the end of ``line`` that a candidate of `complete` replaces: a word, a value, or the last of a list."""
    word = line.rpartition(" ")[2]
    return re.split(r"[=,]", word)[-1]


def _unused(before: list[str]) -> list[str]:
    used = {option.name for word in before if (option := BY_FLAG.get(word.partition("=")[0]))}
    return [option.name for option in OPTIONS if option.name not in used]


class Completer:
    """The completer that `install_completer` added to a shell."""

    def __init__(self, shell: Any, after: Mapping[str, tuple[str, ...]]) -> None:
        self._shell = shell
        self._after = after
        self._matcher: Any = self._match  # one bound method, so that it can be removed again
        shell.Completer.custom_matchers.append(self._matcher)

    def uninstall(self) -> None:
        """Remove the completer. Idempotent."""
        matchers = self._shell.Completer.custom_matchers
        if self._matcher in matchers:
            matchers.remove(self._matcher)

    def _match(self, context: Any) -> dict[str, Any]:
        found, replaced = self._candidates(context)
        from IPython.core.completer import SimpleCompletion  # noqa: PLC0415 - loaded with the first Tab

        return {
            "completions": [SimpleCompletion(text, type="param") for text in found],
            "matched_fragment": replaced,
            "suppress": bool(found),
            "ordered": True,
        }

    _match.matcher_api_version = 2  # type: ignore[attr-defined]  # IPython distinguishes matchers by this

    def _candidates(self, context: Any) -> tuple[list[str], str]:
        magic, space, rest = context.text_until_cursor.lstrip().partition(" ")
        if not space:
            return [], ""
        if magic == "%flyte":
            before, _, word = rest.lstrip().rpartition(" ")
            offered = self._after.get(before.strip(), ())
            if before.strip() == "fit":
                offered = tuple(name for name, value in self._own().items() if _is_of_flyte(value, "TaskTemplate"))
            return [name for name in offered if name.lower().startswith(word.lower())], word
        first = not "".join(context.full_text.split("\n")[: context.cursor_line]).strip()
        if magic == MAGIC and first:
            return complete(rest, self._names()), fragment(rest)
        return [], ""

    def _own(self) -> dict[str, Any]:
        hidden = self._shell.user_ns_hidden
        return {name: value for name, value in self._shell.user_ns.items() if name[:1] != "_" and name not in hidden}

    def _names(self) -> Names:
        own = self._own()
        return Names(
            environments=tuple(sorted(name for name, value in own.items() if _is_of_flyte(value, "TaskEnvironment"))),
            variables=tuple(sorted(name for name, value in own.items() if type(value).__name__ != "module")),
        )


def install_completer(
    shell: Any,
    after: Mapping[str, tuple[str, ...]] | None = None,
) -> Completer:
    """Let Tab complete the first line of a ``%%flyte_task`` cell, and ``%flyte``, with the words in ``after``."""
    return Completer(shell, after or {})


def _is_of_flyte(value: object, name: str) -> bool:
    # By name: only sdk/ imports flyte.
    return any(base.__name__ == name and base.__module__.partition(".")[0] == "flyte" for base in type(value).__mro__)
