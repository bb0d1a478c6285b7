"""Loads what a task returned once more where it was made: what code of its classes does then, it does in the worker.

The notebook's kernel loads every result. A class may do anything when an object of it is loaded, end the process for
example, and what does so must not happen there. Results above `TRIED_BYTES` are not tried, since it would double what
the task holds; neither are files and frames, which are loaded by libraries, and what a cell gives back, which was tried
when it was written (`cells.values`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from flyte.types import TypeEngine

from flyte_notebook.cells.values import TRIED_BYTES
from flyte_notebook.core import private
from flyte_notebook.sdk.types import OUTCOME_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable

PICKLE_FORMAT = "PythonPickle"
"""What the SDK calls the format of a file that holds a pickle."""


def load_again(outputs: Any, interface: Any) -> None:
    """Load what can be tried; what that raises will be raised in the notebook, and is no matter here."""
    for literal in outputs.proto_outputs.literals:
        if 0 < (_size_bytes(literal.value) or 0) <= TRIED_BYTES:
            with contextlib.suppress(Exception):
                asyncio.run(TypeEngine.to_python_value(literal.value, interface.outputs[literal.name]))


def _size_bytes(literal: Any) -> int | None:
    """Return how much is loaded for a literal, 0 for what runs no code, ``None`` for what is not to be tried."""
    kind = literal.WhichOneof("value")
    if kind == "scalar":
        return _scalar_bytes(literal.scalar)
    parts: dict[str, Iterable[Any]] = {
        "collection": literal.collection.literals,
        "map": literal.map.literals.values(),
    }
    sizes = [_size_bytes(part) for part in parts[kind]] if kind in parts else [None]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _scalar_bytes(scalar: Any) -> int | None:
    kind = scalar.WhichOneof("value")
    if kind == "union":
        return _size_bytes(scalar.union.value)
    if kind == "binary":
        return None if scalar.binary.tag == OUTCOME_TAG else len(scalar.binary.value)
    if kind == "blob" and scalar.blob.metadata.type.format == PICKLE_FORMAT:
        with contextlib.suppress(OSError):  # it lies elsewhere
            return private.size_bytes(scalar.blob.uri)
    return 0 if kind in {"primitive", "none_type"} else None
