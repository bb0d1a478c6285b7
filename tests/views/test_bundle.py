"""Tests of the MIME bundle: three forms, each of which a notebook file can hold."""

from __future__ import annotations

import json

import pytest
from failures import NASTY, OOM, hostile

from flyte_notebook.views.bundle import MIME_TYPE, STRING_CHARACTERS, failure_bundle
from flyte_notebook.views.failures.html import failure_html
from flyte_notebook.views.text import failure_text


def test_the_bundle_has_the_three_forms() -> None:
    """The bundle holds the card, the text and the failure for tools."""
    expected = {"text/html": failure_html(OOM), "text/plain": failure_text(OOM), MIME_TYPE: OOM.to_dict()}
    assert expected == failure_bundle(OOM)
    assert "application/vnd.flyte-notebook.failure+json" == MIME_TYPE


def test_the_bundle_can_be_written_whatever_the_task_wrote() -> None:
    """Every form can be written as UTF-8 JSON and read back the same."""
    bundle = failure_bundle(hostile(NASTY))
    assert bundle == json.loads(json.dumps(bundle, ensure_ascii=False, allow_nan=False).encode())


@pytest.mark.slow
def test_a_huge_message_does_not_make_a_huge_bundle() -> None:
    """A message of 50 MB is cut at both ends of its middle, with a note."""
    message = failure_bundle(hostile("first" + "x" * 50_000_000 + "last"))[MIME_TYPE]["message"]
    assert len(message) < STRING_CHARACTERS + 100
    assert message.startswith("first")
    assert message.endswith("last")
    assert "characters left out" in message


def test_the_bundle_tells_no_values_of_inputs() -> None:
    """Inputs are listed by name, type and size only."""
    assert [{"name": "x", "type": "int", "size_bytes": 28}] == failure_bundle(OOM)[MIME_TYPE]["inputs"]
