"""What goes into a cell that is a task, and what comes back from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from kernels import WARM

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter


def test_what_a_cell_reads_goes_in_and_what_it_assigns_comes_back(kernel: Kernel) -> None:
    """Variables that are read are inputs; all names assigned at top level are bound in the notebook."""
    kernel.run("x = 2; words = {'a': [1]}; unread = open(os.devnull, 'wb')")
    kernel.run(
        "%%flyte_task\ny, (z, *rest) = x + 1, (1, 2, 3)\nfor i in range(3):\n    last = words['a'] + [i]\n"
        "with open('/dev/null') as _file:\n    pass\nif (w := 5) > 3: found = True"
    ).ok()
    assert (3, 1, [2, 3], 2, [1, 2], 5, True) == kernel.value("(y, z, rest, i, last, w, found)")


def test_inputs_and_outputs_can_be_named(kernel: Kernel) -> None:
    """With -i just those go in, with -o just those come back; functions of the notebook are found as before."""
    kernel.run("a = 1; b = 2\ndef add(n): return n + 1")
    kernel.run("%%flyte_task chosen -i a,b -o y\ny = add(a)\nz = 3").ok()
    assert (2, False) == kernel.value("(y, 'z' in globals())")
    assert ["a", "b"] == kernel.value("list(chosen.native_interface.inputs)")
    missing = kernel.run("%%flyte_task -i a\nb")
    assert "name 'b' is not defined" in missing.evalue
    assert "> 2 | b" in missing.traceback


def test_any_variable_name_can_be_an_input(kernel: Kernel) -> None:
    """Names that the SDK gives its own arguments collide with nothing, in the cell and in a call."""
    kernel.run("obj = 1; task = 2; name = 3; args = (4,); kwargs = {'k': 5}; self = 6")
    kernel.run("%%flyte_task\ntotal = obj + task + name + args[0] + kwargs['k'] + self").ok()
    assert 21 == kernel.value("total")
    kernel.run("%%flyte_task summed\nobj + task + name").ok()
    assert "12" == kernel.run("await summed(obj=3, task=4, name=5)").ok().result


def test_a_large_output_stays_unless_it_is_asked_for(kernel: Kernel) -> None:
    """Above 64 MiB a name stays, one line says so and how to get it, and -o brings it."""
    kernel.run("big = 'older'")
    kept = kernel.run("%%flyte_task\nbig = bytes(70 << 20)\nsmall = 1").ok()
    assert [
        "`big` (70 MiB) was not copied back because it is over 64 MiB. To get it, add `-o big`",
        "the notebook still has the older `big`",
    ] == kept.notes
    assert ("older", 1) == kernel.value("(big, small)")
    assert [] == kernel.run("%%flyte_task -o big\nbig = bytes(70 << 20)").ok().notes
    assert 70 << 20 == kernel.value("len(big)")


def test_spooled_values_are_removed(kernel: Kernel) -> None:
    """Values that travelled in files leave no file behind, in cells, in calls of their tasks, and in nested calls."""
    kernel.run(
        "import glob\ngiven = bytes(3 << 20)\ndef spooled():\n"
        "    return [p for p in glob.glob(f'/tmp/flyte/raw_data/{fn.last_run.name}/**', recursive=True)"
        " if os.path.isfile(p)]"
    )
    kernel.run("%%flyte_task grown\nback = given + bytes(2 << 20)\nlen(back)").ok()
    assert ([], 5 << 20) == kernel.value("(spooled(), len(back))")
    assert str(5 << 20) == kernel.run("await grown(given)").ok().result
    assert [] == kernel.value("spooled()")
    assert str(5 << 20) == kernel.run("%%flyte_task\nawait grown(given)").ok().result
    assert [] == kernel.value("spooled()")


def test_a_death_while_returning_names_the_output(kernel: Kernel) -> None:
    """Serialising counts against the limit, and the card says which name it was at."""
    reply = kernel.run(
        "%%flyte_task --memory 100Mi\nclass Greedy:\n    def __getstate__(self):\n        return b'x' * (300 << 20)\n"
        "greedy = Greedy()"
    )
    assert "OOMError" == reply.ename
    assert "while returning `greedy`" in reply.card["text/plain"]
    assert re.search("while returning <code[^>]*>greedy</code>", reply.card["text/html"])
    assert not kernel.value("'greedy' in globals()")


def test_the_kernel_refuses_what_does_not_fit_its_memory(kernel: Kernel) -> None:
    """An output larger than the memory that the kernel can have is left out and named; the rest is there."""
    loader = "fn.sdk.types.ReturnedValues.__init__.__kwdefaults__"
    kernel.run(f"import flyte_notebook.sdk.types\n_real = {loader}['available_bytes']")
    kernel.run(f"{loader}['available_bytes'] = lambda: 10 << 20")
    reply = kernel.run("%%flyte_task\nsmall = 1\nlarge = bytes(20 << 20)")
    kernel.run(f"{loader}['available_bytes'] = _real")
    assert [
        "`large` was not brought back: it needs about 20 MiB and the notebook's kernel can have 10 MiB"
    ] == reply.ok().notes
    assert (1, False) == kernel.value("(small, 'large' in globals())")


def test_deleted_names_do_not_come_back(kernel: Kernel) -> None:
    """A name that the cell deletes is gone from the notebook, one that it made on the way never appears."""
    kernel.run("x = 1")
    kernel.run("%%flyte_task\ntmp = x\ny = tmp\ndel x, tmp").ok()
    assert (1, False, False) == kernel.value("(y, 'x' in globals(), 'tmp' in globals())")


def test_functions_and_classes_belong_to_the_notebook(kernel: Kernel) -> None:
    """What the cell defines sees globals that the notebook sets later, and sets the notebook's own."""
    kernel.run(
        "%%flyte_task\ndef f(a):\n    global seen\n    seen = a\n    return a + later\n"
        "class C:\n    def m(self):\n        return f(1)\nc = C()"
    ).ok()
    kernel.run("later = 10")
    assert (11, 1) == kernel.value("(c.m(), seen)")
    assert (True, True, "__main__") == kernel.value("(f.__globals__ is globals(), type(c) is C, C.__module__)")


def test_imported_modules_are_bound(kernel: Kernel) -> None:
    """``import a``, ``import a.b``, ``import a.b as c`` and ``from a import b`` bind as they do in a plain cell."""
    kernel.run("%%flyte_task\nimport math, xml.dom.minidom, os.path as where\nfrom json import dumps").ok()
    assert (3, "xml.dom.minidom", True, "{}") == kernel.value(
        "(math.floor(3.5), xml.dom.minidom.__name__, where is os.path, dumps({}))"
    )


def test_names_of_a_star_import_come_back(kernel: Kernel) -> None:
    """``import *`` works in the body, and what it bound is in the notebook."""
    assert "3" == kernel.run("%%flyte_task\nfrom math import *\nfloor(pi)").ok().result
    assert (True, 2) == kernel.value("(3.14 < pi < 3.15, ceil(1.5))")


def test_the_last_value_is_displayed_and_kept(kernel: Kernel) -> None:
    """The value of the last expression is the cell's result, in ``_`` and in ``Out``; a semicolon silences it."""
    kernel.run("x = 20")
    assert "[20]" == kernel.run("%%flyte_task\n[x]").ok().result
    assert ([20], True) == kernel.value("(_, any(_ is value for value in Out.values()))")
    silent = kernel.run("%%flyte_task\ny = 3\n[x + 1];").ok()
    assert silent.result is None
    assert ([20], 3) == kernel.value("(_, y)")
    assert kernel.run("%%flyte_task\nNone").ok().result is None


def test_what_cannot_be_pickled_is_listed_and_the_cell_succeeds(kernel: Kernel) -> None:
    """One line lists the names, older values of them are removed, and the others come back."""
    kernel.run("gen = 'older'")
    reply = kernel.run(
        "%%flyte_task\nimport threading\ngen = (i for i in range(3))\nbox = {'lock': threading.Lock()}\na = 1\na + 1"
    ).ok()
    (note,) = reply.notes
    assert "`gen` (generator)" in note
    assert "`box['lock']` (_thread.lock)" in note
    assert note.endswith("cannot be pickled and stay in the task")
    assert "2" == reply.result
    assert (1, False, False) == kernel.value("(a, 'gen' in globals(), 'box' in globals())")


def test_a_last_value_that_cannot_be_pickled_is_shown(kernel: Kernel) -> None:
    """It is displayed as the worker would display it, unless a semicolon silences it, and a line says so."""
    said = "the last value cannot be pickled; it is shown, and `_` is not set"
    reply = kernel.run("%%flyte_task\n(i for i in range(3))").ok()
    assert [said] == reply.notes
    assert reply.shown[-1]["text/plain"].startswith("<generator object")
    silent = kernel.run("%%flyte_task\n(i for i in range(3));").ok()
    assert not any("generator" in bundle["text/plain"] for bundle in silent.shown)


def test_after_a_failure_nothing_is_assigned(kernel: Kernel) -> None:
    """Names that the cell set, changed or deleted before it failed are as they were."""
    kernel.run("a = 1; d = {}; gone = 2")
    reply = kernel.run("%%flyte_task\na = 5\nnew = 6\nd['k'] = 1\ndel gone\nimport wave\n1 / 0")
    assert "RuntimeUserError" == reply.ename
    assert (1, {}, 2, False, False) == kernel.value("(a, d, gone, 'new' in globals(), 'wave' in globals())")


def test_an_input_that_is_changed_becomes_an_output(kernel: Kernel) -> None:
    """Items and attributes that the cell assigns are there in the notebook, without -o."""
    kernel.run(
        "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]})\nclass Obj: pass\nobj = Obj(); obj.x = 1\n"
        "nested = {'l': [1]}; counts = [0]"
    )
    reply = kernel.run("%%flyte_task\ndf['c'] = df['a'] * 2\nobj.x = 2\nnested['l'][0] = 5\ncounts[0] += 1").ok()
    assert [] == reply.notes
    assert ([2, 4], 2, {"l": [5]}, [1]) == kernel.value("(df['c'].tolist(), obj.x, nested, counts)")
    assert kernel.value("type(obj) is Obj")


def test_any_other_input_that_changed_is_named_once(kernel: Kernel) -> None:
    """A change that the text does not show is told with the option that brings it back; -o does."""
    kernel.run("data = [1]; model = {}; same = [2]\ndef grow(values): values.append(2)")
    reply = kernel.run("%%flyte_task\ngrow(data); grow(data)\nlen(same)").ok()
    assert ["`data` changed in the task only; add `-o data`"] == reply.notes
    assert [1] == kernel.value("data")
    kernel.run("%%flyte_task -o data\ngrow(data)").ok()
    assert [1, 2] == kernel.value("data")


def test_a_large_input_is_named_when_a_method_was_called_on_it(kernel: Kernel) -> None:
    """Above 64 MiB nothing is compared; a call of a method on it is reason enough to say that it may have changed."""
    kernel.run("large = [bytes(65 << 20)]; other = [bytes(65 << 20)]")
    reply = kernel.run("%%flyte_task\nlarge.append(1)\nlen(other)").ok()
    assert ["if the cell changed `large` in place, add `-o large` (it is too large to compare)"] == reply.notes


EXACT = """
import collections, datetime, decimal, enum, fractions, pathlib, uuid, dataclasses, types, math, re
import numpy as np, pandas as pd
Point = collections.namedtuple("Point", "x y")
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Data:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)
exact = [
    None, True, 0, -1, 2**70, 1.5, float("inf"), 1j, "", "é\\n\\x00", "\\ud800", b"", bytearray(b"x"),
    (1, 2), (), (1,), [1],
    {1: 2}, {"a": (1,)}, {1}, frozenset({1}), range(3), slice(1, 2), Ellipsis, NotImplemented, int, len,
    datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.date(2024, 1, 2), datetime.timedelta(seconds=1.5),
    decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=1),
    pathlib.PurePosixPath("a/b"), collections.OrderedDict(a=1), collections.Counter("aa"),
    collections.deque([1], maxlen=2),
    Point(1, 2), Colour.RED, Data(), types.SimpleNamespace(a=1), ValueError("x"), re.compile("a+"), math.nan,
    np.float64(1.5), np.int8(3), np.arange(3, dtype="int16"), np.datetime64("2024-01-02"),
    pd.DataFrame({"a": [1, None]}), pd.Series(["x"], name="s"), pd.Timestamp("2024-01-02", tz="UTC"),
]
def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (pd.DataFrame, pd.Series)):
        return a.equals(b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, Exception):
        return a.args == b.args
    return bool(a == b) or (a != a and b != b)
for number, value in enumerate(exact):
    globals()[f"v{number}"] = value
count = len(exact)
"""


def test_types_are_exact(kernel: Kernel) -> None:
    """Some fifty kinds of values go in and come back as the very type, without a warning."""
    kernel.run(EXACT).ok()
    count = kernel.value("count")
    assert count > 50
    assigned = "\n".join(f"w{number} = v{number}" for number in range(count))
    all_of_them = ", ".join(f"v{number}" for number in range(count))
    reply = kernel.run(f"%%flyte_task\n{assigned}\n{all_of_them}").ok()
    assert [] == reply.notes
    assert "" == reply.stderr
    assert [] == kernel.value("[repr(v) for n, v in enumerate(exact) if not same(v, globals()[f'w{n}'])]")
    assert [] == kernel.value("[repr(v) for v, w in zip(exact, _) if not same(v, w)]")


def test_the_last_value_of_a_called_task_is_exact(kernel: Kernel) -> None:
    """What the SDK would take apart, such as a tuple, or take for a failure comes back whole from a call."""
    kernel.run("kinds = [None, (1, 2), (), ValueError('x'), 'text', {'a': 1}]; n = 1")
    assert "(1, 2)" == kernel.run("%%flyte_task whole\nkinds[n]").ok().result
    kernel.run("import asyncio\ngiven = await asyncio.gather(*(whole(kinds, n) for n in range(len(kinds))))").ok()
    assert kernel.value("repr(given) == repr(kinds)")


@pytest.mark.cgroup
def test_a_large_input_counts_against_the_limit(kernel: Kernel) -> None:
    """400 MiB that the notebook has do not fit into 250Mi, as they would not into a container; into 600Mi they do."""
    kernel.run("import numpy as np\nlarge = np.ones(50 << 20)").ok()
    reply = kernel.run("%%flyte_task -m 250Mi\nlarge.nbytes")
    assert "OOMError" == reply.ename
    assert str(400 << 20) == kernel.run("%%flyte_task -m 600Mi\nlarge.nbytes").ok().result


@pytest.mark.parametrize("make", ["np.ones(25 << 20)", "pd.DataFrame({'a': np.ones(25 << 20)})"])
def test_the_kernel_holds_a_large_value_once(kernel: Kernel, make: str) -> None:
    """200 MiB go in and come back: the kernel's highest point is the value itself and 5%, and the second one's."""
    kernel.run(
        "import gc, numpy as np, pandas as pd\n"
        "def highest():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) >> 10\n"
        "def from_here():\n"
        "    gc.collect(); open('/proc/self/clear_refs', 'w').write('5'); return highest()\n"
        f"given = {make}"
    ).ok()
    kernel.run("%%flyte_task -m 700Mi\nlen(given)").ok()  # what is loaded once
    kernel.run(WARM + "before = from_here()").ok()
    kernel.run("%%flyte_task -m 700Mi\nlen(given)").ok()
    assert kernel.value("highest() - before") < 10
    kernel.run("before = from_here()").ok()
    kernel.run(f"%%flyte_task -m 700Mi -o back\nimport numpy as np, pandas as pd\nback = {make}").ok()
    assert 200 - 10 < kernel.value("highest() - before") < 210
    assert kernel.value("bool(np.all(np.asarray(back) == 1))")


def test_a_cached_cell_knows_a_large_input_again(kernel: Kernel) -> None:
    """For a task that is cached the content of a large input is hashed; equal content hits, other content does not."""
    kernel.run("import numpy as np, time").ok()
    cell = "%%flyte_task --cache auto\nmade = (time.time(), float(given[0]))"
    made = []
    for text in ("np.full(1 << 19, 7.0)", "np.full(1 << 19, 7.0)", "np.full(1 << 19, 8.0)"):
        kernel.run(f"given = {text}").ok()
        kernel.run(cell).ok()
        made.append(kernel.value("made"))
    assert made[0] == made[1]
    assert [7.0, 7.0, 8.0] == [value for _, value in made]
