"""Pickles with the names that ``__main__`` needs on the other side.

Classes and functions of a script or a notebook are sent by value, so a worker's ``__main__`` does not have them. But
their module is ``__main__``, and other code looks for them there: pickle, and so every process pool inside a task; the
code that is generated for the fields of a dataclass; and code that resolves annotations written as text.
"""

from __future__ import annotations

import io
import re
import types
from typing import IO, TYPE_CHECKING, Any

from flyte_notebook.core.private import UnwritableError
from flyte_notebook.worker.values import pickling, sharing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from flyte_notebook.worker.process.spool import Spool, SpoolReader

_WORD = re.compile(r"[^\W\d]\w*")
_TYPE_LIKE = (type, types.ModuleType, types.GenericAlias, types.UnionType)


def dump(
    obj: Any, spool: Spool, namespace: dict[str, Any] | None = None, *, name: str = "value", end: bool = False
) -> pickling.CellPickler:
    """Write ``obj`` to a spool, and the objects needed by name, if any; return the pickler, which lists its contents.

    ``namespace`` as in `pickling.CellPickler`. ``end`` marks the end, for more to follow. Raises `PicklingProblem`,
    whose path begins with ``name``, and the errors of the spool.
    """
    pickler = pickling.CellPickler(spool, namespace, take_buffer=spool.take_buffer)
    _dump(pickler, obj, namespace, name=name)
    if end:
        pickler.dump({})
    return pickler


def dumps(
    obj: Any, namespace: dict[str, Any] | None = None, *, without: Collection[str] = (), name: str = "value"
) -> tuple[bytes, pickling.Sources]:
    """Return the same as bytes, with an end to them, and the text of the notebook code in it; raises as `dump`."""
    file = io.BytesIO()
    pickler = pickling.CellPickler(file, namespace, without=without)
    _dump(pickler, obj, namespace, name=name)
    pickler.dump({})
    return file.getvalue(), pickling.sources_of(pickler.files)


def load_spooled(reader: SpoolReader, namespace: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read the output of `dump`: the object, and the objects needed by name."""
    return _load(pickling.CellUnpickler(reader, namespace, buffers=reader.buffers()))


def load(file: IO[bytes] | Any, namespace: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read the output of `dumps`: the object, and the objects needed by name."""
    return _load(pickling.CellUnpickler(file, namespace))


def _load(unpickler: pickling.CellUnpickler) -> tuple[Any, dict[str, Any]]:
    obj = unpickler.load()
    names: dict[str, Any] = {}
    try:
        while part := unpickler.load():
            names.update(part)
    except EOFError:  # the end of the file counts as an end mark, too
        pass
    return obj, names


def make_known(names: Mapping[str, Any], namespace: dict[str, Any] | None = None) -> None:
    """Add names to ``namespace``, ``__main__`` when it is ``None``; names that it has already are not changed."""
    namespace = sharing.shared_namespace() if namespace is None else namespace
    for name, value in names.items():
        namespace.setdefault(name, value)


def names_of(travellers: Iterable[Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return by name those classes and functions that ``namespace`` has under their own name.

    Types that are named in the text of their annotations are added: else they would be missing on the other side.
    """
    found: dict[str, Any] = {}
    for traveller in travellers:
        name = traveller.__qualname__
        if namespace.get(name) is traveller:
            found[name] = traveller
        for word in _words(traveller):
            if _is_type_like(namespace.get(word)):
                found[word] = namespace[word]
    return found


def _dump(pickler: pickling.CellPickler, obj: Any, namespace: dict[str, Any] | None, *, name: str) -> None:
    home = sharing.shared_namespace() if namespace is None else namespace
    try:
        pickler.dump(obj)
        while names := names_of(pickler.new_travellers(), home):  # they may bring more
            pickler.dump(names)
    except (MemoryError, UnwritableError):
        raise
    except Exception as error:
        raise pickling.explain(obj, error, name=name, namespace=namespace) from error


def _words(traveller: object) -> Iterator[str]:
    """Yield the words in those annotations of a class that are text, completely or in part."""
    try:
        annotations = traveller.__annotations__ if isinstance(traveller, type) else {}
    except Exception:  # user code, evaluated at the access since Python 3.14
        return
    for annotation in annotations.values():
        text = annotation if isinstance(annotation, str) else repr(annotation)
        if text is annotation or "ForwardRef(" in text:
            yield from _WORD.findall(text)


def _is_type_like(value: object) -> bool:
    return isinstance(value, _TYPE_LIKE) or type(value).__module__ == "typing"
