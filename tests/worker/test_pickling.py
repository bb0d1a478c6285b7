"""Notebook code and values travel to another process and back as if they had never left."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import io
import linecache
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.worker.values import pickling
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "<cell pickling>"


def notebook(source: str, file: str = FILE) -> dict[str, Any]:
    """Return a namespace as a kernel has it, after a cell with that source."""
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec", dont_inherit=True), namespace)  # noqa: S102 - what a kernel does
    return namespace


@pytest.fixture(autouse=True)
def _forget_cells() -> Iterator[None]:
    before = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(before)


def in_another_process(code: str, data: bytes, directory: Path) -> str:
    """Run code in a fresh interpreter that has loaded ``data`` as ``got``; return what it prints."""
    (directory / "data").write_bytes(data)
    head = "import sys\nfrom flyte_notebook.worker.values import pickling\n"
    head += "got = pickling.loads(open(sys.argv[1], 'rb').read())\n"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + code, str(directory / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == run.returncode, run.stderr
    return run.stdout.strip()


DATACLASS = """
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
    tags: list = dataclasses.field(default_factory=list)
    _: dataclasses.KW_ONLY
    z: int = 3
    def far(self): return scale(self.x)
def scale(x): return x * FACTOR
FACTOR = 10
point = Point(2)
"""


def test_a_dataclass_of_a_notebook_works_on_the_other_side(tmp_path: Path) -> None:
    """Sentinels of dataclasses keep their identity, so replace, defaults and keyword-only fields work."""
    namespace = notebook(DATACLASS)
    data = pickling.dumps({"point": namespace["point"], "Point": namespace["Point"]}, namespace)
    code = (
        "import dataclasses\n"
        "print(dataclasses.fields(got['Point'])[0].default is dataclasses.MISSING,\n"
        "      dataclasses.replace(got['point'], x=7), got['Point'](1).tags, got['point'].far())"
    )
    assert "True Point(x=7, tags=[], z=3) [] 20" == in_another_process(code, data, tmp_path)


def test_sentinels_are_by_name_for_our_picklers_only() -> None:
    """The registry of all picklers of this process stays as it is."""
    assert dataclasses.MISSING is pickling.loads(pickling.dumps([dataclasses.MISSING]))[0]
    if sys.version_info < (3, 15):  # from then on pickle ships them by name itself
        assert dataclasses.MISSING is not pickle.loads(pickle.dumps(dataclasses.MISSING))  # noqa: S301 - the test's own bytes


def test_annotations_travel_as_they_are() -> None:
    """Annotations of a function arrive, and one that names what is not there yet does not keep it from travelling."""
    namespace = notebook("def fine(x: int) -> str: ...")
    assert {"x": int, "return": str} == pickling.loads(pickling.dumps(namespace["fine"], namespace)).__annotations__
    later = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    namespace = notebook(f"{later}def early(x: Later) -> int: return x + 1")
    assert 3 == pickling.loads(pickling.dumps(namespace["early"], namespace))(2)


def test_functions_share_the_namespace_of_the_loading_side(tmp_path: Path) -> None:
    """Globals of a notebook function are those of the other side's __main__, set there where they were missing."""
    namespace = notebook(
        "count = 5\nother = 1\ndef bump():\n    global count\n    count += 1\n    return count + other"
    )
    data = pickling.dumps({"bump": namespace["bump"]}, namespace)
    code = (
        "bump = got['bump']\nprint(bump.__globals__ is globals(), bump(), count)\n"
        "other = 100\nprint(bump())\n"
        "fresh = {'count': 50}\n"
        "print(pickling.loads(open(sys.argv[1], 'rb').read(), fresh)['bump'](), fresh['count'])"
    )
    assert "True 7 6\n107\n52 51" == in_another_process(code, data, tmp_path)


def test_a_global_that_is_left_out_does_not_travel() -> None:
    """Names in ``without`` are not pickled with the functions that read them."""
    namespace = notebook("lock = __import__('threading').Lock()\ndef use():\n    return lock")
    data, _ = pickling.dumps_with_sources(namespace["use"], namespace, without={"lock"})
    target: dict[str, Any] = {"lock": "theirs"}
    assert "theirs" == pickling.loads(data, target)()


RECURSION = """
import functools
def fact(n): return 1 if n < 2 else n * fact(n - 1)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
@functools.lru_cache(maxsize=7)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def outer(step):
    def inner(n): return n if n > 9 else inner(n + step)
    return inner
inner = outer(3)
class Base:
    def name(self): return "base"
class Child(Base):
    def name(self): return "child of " + super().name()
"""


def test_functions_that_refer_to_themselves_and_each_other_travel(tmp_path: Path) -> None:
    """Recursion, closures, cached functions and super() work on the other side."""
    namespace = notebook(RECURSION)
    names = ("fact", "even", "fib", "inner", "Child")
    data = pickling.dumps({name: namespace[name] for name in names}, namespace)
    code = (
        "print(got['fact'](5), got['even'](4), got['fib'](60), got['fib'].cache_parameters()['maxsize'],\n"
        "      got['fib'].__name__, got['inner'](1), got['Child']().name())"
    )
    assert "120 True 1548008755920 7 fib 10 child of base" == in_another_process(code, data, tmp_path)


def test_a_class_keeps_its_identity_over_a_round_trip(tmp_path: Path) -> None:
    """An instance that comes back is one of the notebook's own class, whose methods are left alone."""
    namespace = notebook(DATACLASS)
    method = namespace["Point"].far
    data = pickling.dumps(namespace["point"], namespace)
    in_another_process("got.x = 9\nopen(sys.argv[1], 'wb').write(pickling.dumps(got, globals()))", data, tmp_path)
    back = pickling.loads((tmp_path / "data").read_bytes(), namespace)
    assert (9, True, True) == (back.x, type(back) is namespace["Point"], namespace["Point"].far is method)


def test_a_class_is_written_over_when_that_is_asked_for() -> None:
    """An unpickler that is to renew classes sets the attributes of one that is known."""
    namespace = notebook("class Model:\n    rate = 1")
    namespace["Model"].rate = 2
    data = pickling.dumps(namespace["Model"], namespace)
    namespace["Model"].rate = 1
    pickling.loads(data, namespace)
    assert 1 == namespace["Model"].rate
    unpickler = pickling.CellUnpickler(io.BytesIO(data), namespace)
    unpickler.renew_classes(True)
    unpickler.load()
    assert 2 == namespace["Model"].rate


def test_sources_travel_with_functions(tmp_path: Path) -> None:
    """Tracebacks and inspect.getsource show the cell's lines in a process that never saw the cell."""
    namespace = notebook("def fail(x):\n    return 1 / x\n")
    data, sources = pickling.dumps_with_sources({"fail": namespace["fail"]}, namespace)
    assert {FILE: ["def fail(x):\n", "    return 1 / x\n"]} == sources
    code = (
        f"pickling.install_sources({sources!r})\n"
        "import inspect, linecache, traceback\n"
        "linecache.checkcache()\n"
        "print(inspect.getsource(got['fail']).splitlines()[1])\n"
        "try: got['fail'](0)\n"
        "except ZeroDivisionError: print('return 1 / x' in traceback.format_exc())"
    )
    assert "return 1 / x\nTrue" == in_another_process(code, data, tmp_path)


def test_sources_of_files_on_disk_stay_where_they_are() -> None:
    """Only code whose file does not exist is sent along."""
    code = compile("def f(): pass", __file__, "exec")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(code, namespace)  # noqa: S102 - a function that says it comes from this file
    linecache.getlines(__file__)
    assert {} == pickling.sources(namespace["f"], namespace)


def test_installed_sources_outlive_a_check_of_the_cache() -> None:
    """The line cache drops entries of files that are gone, but not ours."""
    pickling.install_sources({"<cell installed>": ["x = 1\n", "y = 2\n"]})
    linecache.checkcache()
    assert "y = 2\n" == linecache.getline("<cell installed>", 2)


class Holder:
    """Holds things by attribute."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Slotted:
    """Holds a thing in a slot."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


class Odd:
    """Fails in its own way."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("oops\nand more")


@pytest.mark.parametrize(
    ("value", "path", "type_name"),
    [
        (threading.Lock(), "model", "_thread.lock"),
        (Holder(inner=Holder(lock=threading.Lock())), "model.inner.lock", "_thread.lock"),
        ({"a": [1, {"b": (2, threading.Lock())}]}, "model['a'][1]['b'][1]", "_thread.lock"),
        (Slotted(threading.Lock()), "model.held", "_thread.lock"),
        ((n for n in ()), "model", "generator"),
        (Holder(fine=1, odd=[Odd()]), "model.odd[0]", f"{__name__}.Odd"),
        ({threading.Lock()}, "model element ", "_thread.lock"),
    ],
)
def test_a_problem_names_the_path_to_the_culprit(value: Any, path: str, type_name: str) -> None:
    """The error leads from the variable to the part that cannot be pickled, and names its type."""
    with pytest.raises(PicklingProblem) as caught:
        pickling.dumps(value, name="model")
    assert caught.value.path.startswith(path)
    assert type_name == caught.value.type_name
    assert f"`{caught.value.path}` is a" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_problem_is_followed_into_the_globals_and_closures_of_functions() -> None:
    """What a function uses is named with the function."""
    namespace = notebook(
        "import threading\nlock = threading.Lock()\ndef use(): return lock\n"
        "def make():\n    held = [threading.Lock()]\n    def inner(): return held\n    return inner\nclosed = make()"
    )
    paths = []
    for name in ("use", "closed"):
        with pytest.raises(PicklingProblem) as caught:
            pickling.dumps(namespace[name], namespace, name=name)
        paths.append(caught.value.path)
    assert ["use -> lock", "closed -> held[0]"] == paths


def test_a_problem_survives_pickling() -> None:
    """The error keeps its fields when it travels itself."""
    problem = PicklingProblem("model.lock", "_thread.lock", "cannot pickle '_thread.lock' object")
    again = pickling.loads(pickling.dumps(problem))
    assert (problem.args, problem.path, problem.type_name) == (again.args, again.path, again.type_name)


def test_a_cycle_does_not_stop_the_search() -> None:
    """An object that holds itself and something unpicklable is searched once."""
    value: dict[str, Any] = {}
    value["self"] = value
    value["lock"] = threading.Lock()
    with pytest.raises(PicklingProblem, match=r"`model\['lock'\]` is a _thread.lock"):
        pickling.dumps(value, name="model")


def test_dump_and_load_stream_through_files(tmp_path: Path) -> None:
    """What is dumped to a file is loaded from it, one object after the other."""
    with (tmp_path / "file").open("wb") as file:
        pickling.dump([1, 2], file)
        pickling.dump({"a": 1}, file)
    with (tmp_path / "file").open("rb") as file:
        assert ([1, 2], {"a": 1}) == (pickling.load(file), pickling.load(file))


def test_one_pickler_and_one_unpickler_keep_shared_objects_shared() -> None:
    """Objects that several dumps share are one object after as many loads."""
    file = io.BytesIO()
    pickler = pickling.CellPickler(file)
    shared = [1]
    pickler.dump({"first": shared})
    pickler.dump([shared])
    file.seek(0)
    unpickler = pickling.CellUnpickler(file)
    assert unpickler.load()["first"] is unpickler.load()[0]


def test_what_was_loaded_and_dropped_is_freed_at_once() -> None:
    """Neither pickler nor unpickler is part of a reference cycle that would keep what went through it."""
    namespace = notebook("class Big: pass\nbig = Big()")
    gc.disable()
    try:
        loaded = weakref.ref(pickling.loads(pickling.dumps(namespace["big"], namespace), namespace))
        assert loaded() is None
        dumped = weakref.ref(namespace.pop("big"))
        assert dumped() is None
    finally:
        gc.enable()


def test_a_function_of_an_importable_module_travels_by_name() -> None:
    """Code that can be imported is not copied."""
    assert traceback.format_exc is pickling.loads(pickling.dumps(traceback.format_exc))
    assert len(pickling.dumps(inspect.getsource)) < 100


def test_names_of_classes_stay_the_same_objects(tmp_path: Path) -> None:
    """A class that is recognised by the identity of its name, as the SDK's enum of a `Literal` is, still is."""
    namespace = notebook("import enum\nKind = enum.Enum('LiteralEnum', {'a': 'a'})\nclass Plain: pass")
    for name, called in (("Kind", "LiteralEnum"), ("Plain", "Plain")):
        code = f"print(got.__name__ is {called!r})"
        assert "True" == in_another_process(code, pickling.dumps(namespace[name], namespace), tmp_path)
