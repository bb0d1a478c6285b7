"""An explanation of an error class, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import fields
from html import escape
from typing import Final

from flyte_notebook.catalogue import Explanation
from flyte_notebook.views.markup import with_code
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean, clean_line

WIDTH: Final = 88
"""Characters of a line of text; programs keep their own lines."""

_CLASS: Final = "flyte-notebook-explanation"
_CHARACTERS: Final = 4_000
_LABELS: Final = 10
_KINDS: Final = {"any": "depends on whoever raises it", "none": "none: it is not a Flyte error"}
# The look of a card, but without the edge of a failure, and with the complete program.
_STYLE: Final = style_of(_CLASS) + (
    f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n.{_CLASS} .fnb-body pre{{max-height:none}}\n"
)


class ShownExplanation(Explanation):
    """An explanation that shows itself: in a terminal as text, in a notebook as HTML."""

    __slots__ = ()

    def __str__(self) -> str:
        return explanation_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return explanation_html(self)


def shown(explanation: Explanation) -> ShownExplanation:
    """Return the same explanation as one that shows itself."""
    return ShownExplanation(**{field.name: getattr(explanation, field.name) for field in fields(explanation)})


def explanation_text(explanation: Explanation) -> str:
    """Return an explanation as text of a screen or two; no line but those of its program is longer than `WIDTH`."""
    parts = [_wrapped(f"{explanation.name}: {explanation.meaning}")]
    if explanation.facts:
        parts.append(_wrapped(f"This time: {explanation.facts}"))
    parts.append("\n".join(_wrapped(text, label) for label, text in _facts(explanation)))
    parts += [f"{title}\n{_wrapped(text, indent='  ')}" for title, text in _paragraphs(explanation)]
    program = textwrap.indent(explanation.recover.rstrip("\n"), "    ")
    parts.append(f"{_program_title(explanation)}:\n\n{program}")
    parts.append(_wrapped(f"See also: {', '.join(explanation.related)}"))
    return "\n\n".join(parts) + "\n"


def explanation_html(explanation: Explanation) -> str:
    """Return an explanation as one ``section`` element without scripts, in the look of a failure's card."""
    name = escape(clean_line(explanation.name, 120))
    facts = {label: escape(clean_line(text, 600)) for label, text in _facts(explanation)}
    badges = "".join(
        f"<div><dt>{label}</dt><dd><bdi>{facts[label]}</bdi></dd></div>"
        for label in ("kind", "code", "codes")
        if label in facts
    )
    bases = f'<p class="fnb-soft">is a {facts["is a"]}</p>' if "is a" in facts else ""
    this_time = [("This time", explanation.facts)] if explanation.facts else []
    paragraphs = "\n".join(
        f'<div><h4>{title}</h4><p dir="auto">{with_code(text)}</p></div>'
        for title, text in [*this_time, *_paragraphs(explanation)]
    )
    program = escape(clean(explanation.recover, _CHARACTERS).rstrip("\n"))
    return (
        f'<section class="{_CLASS}" data-explains="{name}" role="region" aria-label="What {name} means">'
        f'<style>{_STYLE}</style>\n<div class="fnb-body tex2jax_ignore mathjax_ignore">\n'
        f'<div><h3><span dir="auto">{name}</span></h3>\n<p dir="auto">{with_code(explanation.meaning)}</p></div>\n'
        f'<dl aria-label="What kind of error this is">{badges}</dl>\n'
        f"<div><code>{facts['call']}</code>{bases}</div>\n{paragraphs}\n"
        f"<div><h4>{_program_title(explanation)}</h4><pre>{program}</pre></div>\n"
        f'<p class="fnb-soft">See also: {escape(clean_line(", ".join(explanation.related)))}</p>\n</div></section>'
    )


def _facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    yield "kind", _KINDS.get(explanation.kind, explanation.kind)
    if explanation.codes:
        yield "code" if len(explanation.codes) == 1 else "codes", ", ".join(explanation.codes)
    yield "call", explanation.signature
    if explanation.bases:
        yield "is a", ", ".join(explanation.bases)


def _paragraphs(explanation: Explanation) -> Iterator[tuple[str, str]]:
    real = "Here, for real" if explanation.real_here else "Here"
    yield "On a cluster", explanation.raised_on_cluster
    yield real, explanation.raised_here
    yield "What to change", explanation.prevent


def _program_title(explanation: Explanation) -> str:
    return "Recover in code" if explanation.kind != "none" or explanation.bases else "In code"


def _wrapped(text: str, label: str = "", indent: str = "") -> str:
    """Return cleaned text in lines of `WIDTH`, after a label if there is one."""
    first, rest = (f"  {label:<{_LABELS}}", " " * (_LABELS + 2)) if label else (indent, indent)
    words = clean_line(text, _CHARACTERS)
    return textwrap.fill(words, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
