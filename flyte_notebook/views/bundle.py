"""A failure in all forms at once, so that each front end, converter and tool can use the form that it supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.views.failures.html import failure_html
from flyte_notebook.views.text import clean_line, failure_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.core.outcome import Failure
    from flyte_notebook.views.failures.html import Passed, Story

MIME_TYPE: Final = "application/vnd.flyte-notebook.failure+json"

STRING_CHARACTERS: Final = 200_000
"""A longer string is cut in the bundle, with a note, so that the notebook file can be opened."""


def failure_bundle(
    failure: Failure,
    *,
    story: Story = (),
    reruns: Sequence[str] = (),
    passed: Passed | None = None,
    rest: str | None = None,
) -> dict[str, Any]:
    """Return the MIME bundle of a failure: ``text/html``, ``text/plain`` and `MIME_TYPE`, the last one for tools.

    ``story``, ``reruns``, ``passed`` and ``rest`` as in `failure_html`. All three can be encoded as UTF-8 JSON, also
    when the task's output cannot.
    """
    return {
        "text/html": failure_html(failure, story=story, reruns=reruns, passed=passed, rest=rest),
        "text/plain": "\n".join([failure_text(failure), *map(clean_line, reruns)]),
        MIME_TYPE: _encodable(failure.to_dict()),
    }


def _encodable(value: Any) -> Any:  # noqa: ANN401 - any plain value, and the same kind comes back
    """Return ``value`` with lone surrogates written out and very long strings cut."""
    if isinstance(value, str):
        if len(value) > STRING_CHARACTERS:
            left_out = len(value) - STRING_CHARACTERS
            half = STRING_CHARACTERS // 2
            value = f"{value[:half]}\n[… {left_out:,} characters left out …]\n{value[-half:]}"
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value
