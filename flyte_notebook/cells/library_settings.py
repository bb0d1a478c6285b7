"""Passes settings that earlier cells made in libraries to a task cell.

The notebook's kernel reads them (`read`), and the worker makes them just before the body (`made`), each only if its
library is loaded on both sides; for a library that the body imports they are made after the import. They are not sent
back. A change made by the body stays in the task, and is reported. Each entry is pickled separately, with the standard
pickler, so that one that cannot be pickled does not affect the others.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import operator
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flyte_notebook.worker.process.after_import import call_after_import, loaded

OF_THE_KERNEL = frozenset(
    {"IPKernelApp", "IPython", "asyncio", "comm", "flyte", "flyte_notebook", "ipykernel", "tornado", "traitlets"}
)
"""Loggers below these names are set up by the notebook's own software; a worker has its own."""

CATEGORIES = ("LC_CTYPE", "LC_COLLATE", "LC_TIME", "LC_MONETARY", "LC_NUMERIC", "LC_MESSAGES")
NOT_OF_A_TASK = ("backend", "interactive", "toolbar")
"""Prefixes of matplotlib's settings that say where figures are drawn."""


class CannotTravelError(ValueError):
    """A part of a library's settings is not sent; the text says which. ``rest`` is sent."""

    def __init__(self, text: str, rest: object) -> None:
        super().__init__(text)
        self.rest = rest


@dataclass(frozen=True, slots=True)
class Library:
    """One library's settings: ``read`` returns them, or None if they are the defaults, ``write`` makes them.

    Both get the loaded module as argument: this module imports no library.
    """

    what: str
    module: str
    read: Callable[[Any], Any]
    write: Callable[[Any, Any], object]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings read: each pickled, by name, and one sentence for each that could not be pickled."""

    packed: Mapping[str, bytes] = field(default_factory=dict)
    left: tuple[str, ...] = ()


def read() -> Settings:
    """Return the settings of this process. Never raises."""
    packed: dict[str, bytes] = {}
    left: list[str] = []
    for library in LIBRARIES:
        try:
            try:
                data = _read(library)
            except CannotTravelError as problem:
                left.append(f"{library.what}: {problem} stays in the notebook")
                data = _pickled(problem.rest)
        except Exception as error:  # noqa: BLE001 - a library may raise any error
            left.append(f"{library.what} stay in the notebook: {type(error).__name__}: {error}")
            continue
        if data is not None:
            packed[library.what] = data
    return Settings(packed, tuple(left))


@contextlib.contextmanager
def made(packed: Mapping[str, bytes], source: str) -> Iterator[list[str]]:
    """Make settings for the body of a cell; after the block, the list has the names of the settings that it changed.

    Warning filters are reset: the code after the body is not user code. ``source`` is the text of the body: imports add
    filters too, so a change is reported only if the text mentions warnings.
    """
    changed: list[str] = []
    before: dict[str, bytes | None] = {}
    with warnings.catch_warnings():
        for library in LIBRARIES:
            call_after_import(library.module, functools.partial(_write, library, packed.get(library.what), before))
        yield changed
        for library in LIBRARIES:
            if library.what in before and (library.module != "warnings" or library.module in source):
                changed += [] if _same(_seen(library), before[library.what]) else [library.what]


def _read(library: Library) -> bytes | None:
    if not loaded(library.module):
        return None
    try:
        found = library.read(sys.modules[library.module])
    except AttributeError:  # another thread is importing it: it cannot have settings yet
        return None
    return None if found is None else _pickled(found)


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _seen(library: Library) -> bytes | None:
    try:
        return _read(library)
    except CannotTravelError as problem:
        return _pickled(problem.rest)
    except Exception:  # noqa: BLE001 - a library may raise any error
        return None


def _same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two pickles are of the same settings: equal texts are written differently where they are two objects."""
    if one == other or one is None or other is None:
        return one == other
    try:
        return bool(pickle.loads(one) == pickle.loads(other))  # noqa: S301 - this process made both
    except Exception:  # noqa: BLE001 - values of a library may raise any error
        return False


def _write(library: Library, data: bytes | None, before: dict[str, bytes | None]) -> None:
    before[library.what] = _seen(library)
    if data not in {None, before[library.what]}:
        try:
            _make(library, data)
        except Exception as error:  # noqa: BLE001 - the cell runs all the same
            sys.stderr.write(f"[flyte_notebook: {library.what} cannot be set in the task: {error}]\n")
        before[library.what] = _seen(library)


def _make(library: Library, data: bytes) -> None:
    found = pickle.loads(data)  # noqa: S301 - from the notebook's kernel
    if library.module == "warnings":
        library.write(sys.modules[library.module], found)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.write(sys.modules[library.module], found)


# Python itself


def _read_interpreter(_module: Any) -> dict[str, Any]:
    return {
        "recursion limit": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "collecting": gc.isenabled(),
        "thresholds": gc.get_threshold(),
    }


def _write_interpreter(_module: Any, found: dict[str, Any]) -> None:
    sys.setrecursionlimit(found["recursion limit"])
    sys.set_int_max_str_digits(found["digits"])
    gc.set_threshold(*found["thresholds"])
    (gc.enable if found["collecting"] else gc.disable)()


def _read_warnings(_module: Any) -> list[Any]:
    """Return the filters, each with its class by name: a worker need not import the module of the class.

    Compiled patterns are read as their text and flags.
    """
    found, ours = [], []
    filters: list[Any] = list(warnings.filters)
    for action, message, category, module, lineno in filters:
        if category.__module__ == "__main__":
            ours.append(category.__name__)
        else:
            name = (category.__module__, category.__qualname__)
            found.append((action, _text_of(message), name, _text_of(module), lineno))
    if ours:
        raise CannotTravelError(f"a filter for the notebook's own class {ours[0]}", found)
    return found


def _text_of(pattern: Any) -> Any:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


def _write_warnings(_module: Any, found: list[Any]) -> None:
    filters: list[Any] = warnings.filters  # type: ignore[assignment]  # a list, typed as a sequence
    # A worker has most of the patterns: compiling them again would take most of the time that settings need.
    patterns = {_text_of(part): part for one in filters for part in one if isinstance(part, re.Pattern)}
    warnings.resetwarnings()
    filters = warnings.filters  # type: ignore[assignment]  # as above
    for one in found:
        module, _ = one[2]
        if loaded(module):
            filters.append(_filter(one, patterns))
        else:  # for a library that the body may import: then it is the newest filter
            call_after_import(module, functools.partial(_insert, one, patterns))


def _insert(one: tuple[Any, ...], patterns: Mapping[Any, re.Pattern[str]]) -> None:
    filters: list[Any] = warnings.filters  # type: ignore[assignment]  # as above
    filters.insert(0, _filter(one, patterns))


def _filter(one: tuple[Any, ...], patterns: Mapping[Any, re.Pattern[str]]) -> tuple[Any, ...]:
    action, message, named, module, lineno = one
    message, module = (
        part if not isinstance(part, tuple) else patterns.get(part) or re.compile(*part) for part in (message, module)
    )
    return action, message, _class(*named), module, lineno


def _class(module: str, name: str) -> Any:
    return operator.attrgetter(name)(sys.modules[module])  # the name may have dots in it


def _read_decimal(decimal: Any) -> Any:
    context = decimal.getcontext()
    return None if repr(context) == repr(decimal.DefaultContext) else context.copy()


def _write_decimal(decimal: Any, found: Any) -> None:
    decimal.setcontext(found)


def _read_locale(locale: Any) -> dict[str, str]:
    return {name: locale.setlocale(getattr(locale, name)) for name in CATEGORIES}


def _write_locale(locale: Any, found: dict[str, str]) -> None:
    for name, value in found.items():
        if locale.setlocale(getattr(locale, name)) != value:
            locale.setlocale(getattr(locale, name), value)


def _read_sockets(socket: Any) -> Any:
    return socket.getdefaulttimeout()


def _write_sockets(socket: Any, found: float) -> None:
    socket.setdefaulttimeout(found)


# logging


def _read_logging(_module: Any) -> dict[str, Any]:
    loggers: dict[str, dict[str, Any]] = {}
    left: list[str] = []
    for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]:
        if not isinstance(logger, logging.Logger) or _is_usual(logger) or name.partition(".")[0] in OF_THE_KERNEL:
            continue
        handlers = [(handler, _handler(handler)) for handler in logger.handlers]
        of_a_library = name.partition(".")[0] in sys.modules and name != "__main__"
        if not of_a_library:
            unknown = [type(handler).__name__ for handler, said in handlers if not said]
            left += [f"the {kind} of the logger {name or 'root'}" for kind in unknown]
        said = {
            "level": logger.level,
            "propagate": logger.propagate,
            "disabled": logger.disabled,
            "handlers": None if of_a_library else [said for _, said in handlers if said],
        }
        if not _is_usual(logger, handlers=said["handlers"]):
            loggers[name] = said
    found = {"disabled": logging.root.manager.disable, "loggers": loggers}
    if left:
        raise CannotTravelError(", ".join(left), found)
    return found


def _is_usual(logger: logging.Logger, handlers: object = ...) -> bool:
    """Whether a logger has its defaults, except for handlers; this is so for nearly all of hundreds."""
    level = logging.WARNING if logger is logging.root else logging.NOTSET
    handlers = logger.handlers if handlers is ... else handlers
    return not handlers and logger.level == level and logger.propagate and not logger.disabled


def _handler(handler: logging.Handler) -> dict[str, Any] | None:
    """Return the arguments to make a handler, ``None`` for one that cannot be made again elsewhere."""
    common = {"level": handler.level, "formatter": handler.formatter}
    if handler.filters or type(handler.formatter) not in {logging.Formatter, type(None)}:
        return None
    if type(handler) is logging.NullHandler:
        return {**common, "kind": "null"}
    if type(handler) is logging.FileHandler:
        return {**common, "kind": "file", "path": handler.baseFilename, "encoding": handler.encoding}
    if type(handler) is logging.StreamHandler:
        for stream in ("stdout", "stderr"):
            if handler.stream in {getattr(sys, stream), getattr(sys, f"__{stream}__")}:
                return {**common, "kind": stream}
    return None


def _write_logging(_module: Any, found: dict[str, Any]) -> None:
    logging.disable(found["disabled"])
    for name, said in found["loggers"].items():
        logger = logging.getLogger(name or None)
        logger.setLevel(said["level"])
        logger.propagate, logger.disabled = said["propagate"], said["disabled"]
        if said["handlers"] is not None:
            logger.handlers = [_made_handler(one) for one in said["handlers"]]


def _made_handler(said: dict[str, Any]) -> logging.Handler:
    handler: logging.Handler
    if said["kind"] == "null":
        handler = logging.NullHandler()
    elif said["kind"] == "file":
        handler = logging.FileHandler(said["path"], encoding=said["encoding"], delay=True)
    else:
        handler = logging.StreamHandler(getattr(sys, said["kind"]))
    handler.setLevel(said["level"])
    handler.setFormatter(said["formatter"])
    return handler


# numpy, pandas, matplotlib


def _read_numpy_errors(np: Any) -> dict[str, Any]:
    return dict(np.geterr())


def _write_numpy_errors(np: Any, found: dict[str, Any]) -> None:
    np.seterr(**found)


def _read_numpy_printing(np: Any) -> dict[str, Any]:
    return dict(np.get_printoptions())


def _write_numpy_printing(np: Any, found: dict[str, Any]) -> None:
    np.set_printoptions(**found)


def _read_pandas(pd: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for options that will be removed
        return dict(_options(pd.options, ""))


def _options(at: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in dir(at):
        value = getattr(at, name)
        if type(value) is type(at):
            yield from _options(value, f"{path}{name}.")
        else:
            yield path + name, value


def _write_pandas(pd: Any, found: dict[str, Any]) -> None:
    here = _read_pandas(pd)
    for name, value in found.items():
        if name in here and here[name] != value:
            pd.set_option(name, value)


def _read_matplotlib(mpl: Any) -> dict[str, Any]:
    now: dict[str, Any] = dict(dict.items(mpl.rcParams))
    # Most are the same objects; an identity check is faster than a comparison.
    others = [(name, value) for name, value in dict.items(mpl.rcParamsDefault) if now[name] is not value]
    return {name: now[name] for name, value in others if now[name] != value and not name.startswith(NOT_OF_A_TASK)}


def _write_matplotlib(mpl: Any, found: dict[str, Any]) -> None:
    settings: Any = mpl.rcParams
    settings.update(found)


LIBRARIES = (
    Library("settings of the interpreter (sys, gc)", "sys", _read_interpreter, _write_interpreter),
    Library("logging", "logging", _read_logging, _write_logging),
    Library("the decimal context", "decimal", _read_decimal, _write_decimal),
    Library("the locale", "locale", _read_locale, _write_locale),
    Library("the default time-out of sockets", "socket", _read_sockets, _write_sockets),
    Library("numpy's error handling", "numpy", _read_numpy_errors, _write_numpy_errors),
    Library("numpy's print options", "numpy", _read_numpy_printing, _write_numpy_printing),
    Library("pandas options", "pandas", _read_pandas, _write_pandas),
    Library("matplotlib's rcParams", "matplotlib", _read_matplotlib, _write_matplotlib),
    Library("warning filters", "warnings", _read_warnings, _write_warnings),
)
"""In the order in which they are made: the filters last, so that making the others gives no warnings."""
