"""Names that only run time knows are found by a task cell as by a plain one, or the error says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = pytest.mark.jupyter

LIMIT = "limit = 2\nname = 'limit'\n"
KIND = "class Kind:\n    def __init__(self, x):\n        self.x = x\n"
PEEK = "import sys\ndef peek():\n    return sys._getframe(1).f_globals['limit']\n"

CASES = {
    "eval": Case("eval('limit + 1')", LIMIT),
    "eval of a text that is made": Case("eval(name + ' + 1')", LIMIT),
    "eval of a module": Case("eval('math.' + 'floor(limit + 0.5)')", LIMIT + "import math"),
    "eval of a function": Case("eval('dou' + 'ble(3)')", "factor = 2\ndef double(x):\n    return factor * x"),
    "exec": Case("exec('found = limit * 2')", LIMIT, "found"),
    "globals": Case("globals()['limit']", LIMIT),
    "globals, by a name that is made": Case("globals()[name]", LIMIT),
    "globals, asked": Case("'lim' + 'it' in globals(), globals().get('no' + 'thing')", LIMIT),
    "globals, set": Case("globals()['limit'] = 7", LIMIT, "limit"),
    "vars": Case("vars()['limit']", LIMIT),
    "locals": Case("locals()['limit']", LIMIT),
    "format": Case("'{limit}'.format(**globals())", LIMIT),
    "a list of names": Case("sorted(n for n, v in list(globals().items()) if n[0] != '_' and v == 2)", LIMIT),
    "dir": Case("'limit' in dir()", LIMIT),
    "timeit": Case(
        "import timeit\ntimeit.timeit('held.append(limit)', number=3, globals=globals())\nheld",
        LIMIT + "held = []",
    ),
    "timeit, set up from the notebook": Case(
        "import timeit\ntimeit.timeit('f(limit)', setup='from __main__ import f, limit', number=1) >= 0",
        LIMIT + "def f(x):\n    return x",
    ),
    "pandas eval": Case("import pandas as pd\nfloat(pd.eval('limit * 3'))", LIMIT),
    "pandas query": Case(
        "len(frame.query(f'a > @{name}'))", LIMIT + "import pandas as pd\nframe = pd.DataFrame({'a': range(5)})"
    ),
    "a callee that looks at its caller": Case("peek()", LIMIT + PEEK),
    "a callee of a callee that does": Case("outer()", LIMIT + PEEK + "def outer():\n    return peek()"),
    "a look-up in a helper": Case("look()", LIMIT + "def look():\n    return globals()['limit']"),
    "the module itself": Case("import __main__\n__main__.limit", LIMIT),
    "the module, set": Case("import __main__\n__main__.limit = 9", LIMIT, "limit"),
    "the module, from modules": Case("import sys\nsys.modules['__main__'].limit", LIMIT),
    "import from the module": Case("from __main__ import limit as found\nfound", LIMIT),
    "a pickle of a notebook class": Case(
        "import pickle\npickle.loads(data).x", KIND + "import pickle\ndata = pickle.dumps(Kind(5))"
    ),
    "unittest": Case(
        "import io, unittest\nstream = io.StringIO()\n"
        "found = unittest.main(argv=[''], exit=False, testRunner=unittest.TextTestRunner(stream=stream)).result\n"
        "print(found.testsRun, len(found.failures))\ndel stream, found",
        "import unittest\nclass Limits(unittest.TestCase):\n    def test_right(self):\n        self.assertEqual(1, 1)\n"
        "    def test_wrong(self):\n        self.assertEqual(1, 2)",
    ),
    "doctest": Case(
        "import doctest\nprint(doctest.testmod())",
        "def twice(x):\n    '''\n    >>> twice(2)\n    4\n    >>> twice(3)\n    7\n    '''\n    return 2 * x",
    ),
    "a name that nobody has": Case("eval('no' + 'body')", LIMIT),
}


@pytest.mark.parametrize("name", CASES)
def test_a_name_is_found_at_run_time(kernel: Kernel, name: str) -> None:
    """What it prints, gives, raises and changes is the same."""
    plain, task = both(kernel, CASES[name])
    assert plain == task


LARGE = "big = bytearray(3_000_000)\nlocked = __import__('threading').Lock()\n"


LOOKS = (
    "eval('len(bi' + 'g)')",
    "globals()['bi' + 'g'][0]",
    "g = globals()\nlen(g['bi' + 'g'])",
    "import __main__\nlen(getattr(__main__, 'bi' + 'g'))",
)


@pytest.mark.parametrize("cell", LOOKS)
def test_what_is_too_large_is_named_in_the_error(kernel: Kernel, cell: str) -> None:
    """With the option that takes it along; with it the cell works."""
    kernel.run(LARGE).ok()
    reply = kernel.run("%%flyte_task\n" + cell)
    assert "RuntimeUserError" == reply.ename
    assert "the notebook has it (2.9 MiB)" in reply.evalue
    assert reply.evalue.endswith("add -i big")
    assert kernel.run("%%flyte_task -i big\n" + cell).ok().result in {"3000000", "0"}


def test_what_cannot_be_pickled_is_named_in_the_error(kernel: Kernel) -> None:
    """As what is too large."""
    kernel.run(LARGE).ok()
    reply = kernel.run("%%flyte_task\neval('loc' + 'ked.acquire()')")
    assert "the notebook has it (a _thread.lock), which cannot be pickled; make it in the cell" in reply.evalue


def test_a_name_in_a_text_is_an_input(kernel: Kernel) -> None:
    """However large: the text says that it is meant."""
    kernel.run(LARGE).ok()
    assert "3000000" == kernel.run("%%flyte_task\neval('len(big)')").ok().result


def test_modules_are_imported_only_when_they_are_looked_at(kernel: Kernel, tmp_path: Path) -> None:
    """What a notebook has imported costs a cell nothing that looks up something else."""
    marker = tmp_path / "imported"
    (tmp_path / "fnb_marked.py").write_text(f"open({str(marker)!r}, 'a').write('x')\nvalue = 5\n")
    kernel.run(f"import sys\nsys.path.append({str(tmp_path)!r})\nimport fnb_marked\nlimit = 2").ok()
    assert "2" == kernel.run("%%flyte_task\neval('lim' + 'it')").ok().result
    assert "x" == marker.read_text()
    assert "5" == kernel.run("%%flyte_task\neval('fnb_mar' + 'ked.value')").ok().result
    assert "xx" == marker.read_text()


def test_a_cell_without_look_ups_takes_nothing_along(kernel: Kernel) -> None:
    """Not what only stands in a text, either."""
    kernel.run("limit = other = 2").ok()
    kernel.run("%%flyte_task named\nprint('other', limit)").ok()
    assert ["limit"] == kernel.value("list(named.native_interface.inputs)")
    assert b"other" not in kernel.value("named.cell.code")
