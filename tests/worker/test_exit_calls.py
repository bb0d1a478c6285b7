"""Whose call Python makes at the end of a program: in the shapes that its releases keep them."""

from __future__ import annotations

import concurrent.futures.thread as of_threads
import functools
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.worker.process.child import _module_of

if TYPE_CHECKING:
    from collections.abc import Callable


def _kept_since_3_13(function: Callable[..., object], *arg: object, **kwargs: object) -> Callable[[], object]:
    return lambda: function(*arg, **kwargs)


@pytest.mark.parametrize("keep", [functools.partial, _kept_since_3_13, lambda function: function])
def test_a_pool_of_threads_is_told_from_other_calls(keep: Callable[..., object]) -> None:
    """As a ``partial`` until 3.12, in a ``lambda`` since 3.13, and as it is."""
    assert "concurrent.futures.thread" == _module_of(keep(of_threads._python_exit))
    assert __name__ == _module_of(keep(_kept_since_3_13))
