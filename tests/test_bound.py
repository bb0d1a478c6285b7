"""What is bound when the package is imported stays as it was, whatever becomes of the standard library."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import bound

if TYPE_CHECKING:
    import pytest


def refuse(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("what a user replaced was called")


def test_replaced_functions_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock, names and messages work on."""
    for module, name in ((time, "monotonic"), (time, "time"), (os, "urandom"), (json, "dumps"), (json, "loads")):
        monkeypatch.setattr(module, name, refuse)
    assert bound.monotonic_s() <= bound.monotonic_s()
    assert bound.clock_s() > 1_000_000_000
    assert bound.unique() != bound.unique()
    assert {"a": [1, None]} == bound.from_json(bound.to_json({"a": [1, None]}))


def test_the_clock_is_pythons_own() -> None:
    """Its times can be compared with those of a process that asks Python's clock."""
    before = time.monotonic()
    now = bound.monotonic_s()
    assert before <= now <= time.monotonic()


def test_a_name_is_32_hexadecimal_digits() -> None:
    """As `uuid.uuid4().hex` gives: fit for files, groups and pages."""
    names = {bound.unique() for _ in range(1000)}
    assert 1000 == len(names)
    assert {32} == {len(name) for name in names}
    assert all(int(name, 16) >= 0 for name in names)
