"""Loads a task's result once in the worker, so that harmful code of its classes runs there and not in the notebook.

The notebook's kernel loads every result. A class may run any code when an object of it is loaded, and for example end
the process; this must not happen in the kernel. Results above `TRIED_BYTES` are not tried, since this would double the
task's memory; nor are files and frames, which libraries load, and results of cells, which were tried when they were
written (`cells.values`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from flyte.types import TypeEngine

from flyte_notebook.cells.values import TRIED_BYTES
from flyte_notebook.core import private
from flyte_notebook.sdk.types import OUTCOME_TAG

PICKLE_FORMAT = "PythonPickle"
"""The SDK's name for the format of a file with a pickle."""


def load_again(outputs: Any, interface: Any) -> None:
    """Load a result if it can be tried; errors are ignored here, as the notebook will raise them."""
    for literal in outputs.proto_outputs.literals:
        if 0 < (_size_bytes(literal.value) or 0) <= TRIED_BYTES:
            with contextlib.suppress(Exception):
                asyncio.run(TypeEngine.to_python_value(literal.value, interface.outputs[literal.name]))


def _size_bytes(literal: Any) -> int | None:
    """Return how many bytes are loaded for a literal, 0 if that runs no code, ``None`` if it must not be tried."""
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
        with contextlib.suppress(OSError):  # it is not a local file
            return private.size_bytes(scalar.blob.uri)
    return 0 if kind in {"primitive", "none_type"} else None
