"""What a cell does with names is read from its text, carefully on the side of reading too much."""

from __future__ import annotations

import sys
import textwrap

import pytest

from flyte_notebook.cells.analysis import CellNames, analyse


def names(source: str) -> CellNames:
    """Return what a cell does, for a source that may be indented."""
    return analyse(textwrap.dedent(source))


def reads(source: str) -> set[str]:
    """Return what a cell may read from the notebook."""
    return set(names(source).reads)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x", {"x"}),
        ("x = 1\nx", set()),
        ("x = x + 1", {"x"}),
        ("x += 1", {"x"}),
        ("x[0] = y", {"x", "y"}),
        ("x.a.b = 1", {"x"}),
        ("del x", {"x"}),
        ("f'{x!r:>{w}}'", {"x", "w"}),
        ("[a * k for a in xs if a > t]", {"k", "xs", "t"}),
        ("{k: v for k, v in d.items()}", {"d"}),
        ("[y for x in xs for y in x]", {"xs"}),
        ("(n := m) + n", {"m"}),
        ("lambda q, d=w: q + z", {"w", "z"}),
        ("[(lambda: i + k) for i in xs]", {"xs", "k"}),
        ("if c:\n  x = 1\nx", {"c", "x"}),
        ("if c:\n  x = 1\nelse:\n  x = 2\nx", {"c"}),
        ("if c:\n  x = 1\nelse:\n  raise y\nx", {"c", "y"}),
        ("for i in xs:\n  t = i\nt, i", {"xs", "t", "i"}),
        ("while c:\n  x = 1\nx", {"c", "x"}),
        ("with m as f:\n  x = f\nx, f", {"m"}),
        ("try:\n  x = f()\nexcept E as e:\n  x = e\nx", {"f", "E"}),
        ("try:\n  x = f()\nexcept E:\n  pass\nx", {"f", "E", "x"}),
        ("try:\n  x = f()\nfinally:\n  y = 1\nx, y", {"f"}),
        ("match v:\n  case {'a': q, **rest} if g: q, rest\n  case [1, *t]: t\n  case P(z=w): w", {"v", "g", "P"}),
        ("import a.b, c as d\na, d", set()),
        ("from a import b\nb", set()),
        ("x: int = 1\ny: T\nx", {"int", "T"}),
        ("a, (b, *c) = f()\na, b, c", {"f"}),
        ("await f(x)", {"f", "x"}),
        ("async with m as y:\n  y\nasync for i in s: i", {"m", "s"}),
        ("x = 1\ndel x\nx = 2\nx", set()),
        ("print(f.__name__)", {"print", "f"}),
        ("x if c else y", {"x", "c", "y"}),
        ("a and b or d", {"a", "b", "d"}),
        ("a[b:c, ...]", {"a", "b", "c"}),
    ],
)
def test_reads_of_statements(source: str, expected: set[str]) -> None:
    """A name counts as read where it may not have been bound before."""
    assert expected == reads(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): return big", set()),
        ("def f(): return x\nf()", {"x"}),
        ("def f(): return x\nx = 1\nf()", set()),
        ("def f(): return x\ng(f)", {"g", "x"}),
        ("def f(a, b=d): return a + b\n", {"d"}),
        ("def f():\n  def g(): return [y for _ in x]\n  return g()\nf()", {"x", "y"}),
        ("def a(): return b()\ndef b(): return n\na()", {"n"}),
        ("def f(n): return n * f(n - 1)\nf(3)", set()),
        ("@deco\ndef f(): return k", {"deco", "k"}),
        ("def f():\n  global n\n  n += 1\nf()", {"n"}),
        ("def f(x): return x\n[f(x) for x in xs]", {"xs"}),
        ("def f(): return x\n[f() for x in xs]", {"xs", "x"}),
        ("class A(B):\n  n = K\n  m = n\n  def g(self): return h(self.n)", {"B", "K"}),
        ("class A:\n  def g(self): return h(self)\nA().g()", {"h", "__name__"}),
        ("class A:\n  x = 1\n  def f(self): return x\nA().f()", {"x", "__name__"}),
        ("h = lambda: x\nx = 1", {"x"}),
        ("async def f(): return x\nawait f()", {"x"}),
        ("def f(x):\n  y = 1\n  return lambda: x + y + z\nf(1)", {"z"}),
    ],
)
def test_the_body_of_a_function_counts_from_its_first_use(source: str, expected: set[str]) -> None:
    """A cell that only defines a function takes nothing along for it."""
    assert expected == reads(source)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")
def test_type_parameters_are_not_read() -> None:
    """Type parameters belong to their definition."""
    assert {"int"} == reads("type Pair[T] = tuple2\ndef f[T](x: T) -> T: return x\nclass C[U]:\n  u: U\nf(int)") - {
        "tuple2",
        "__name__",
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = y = 1", ("x", "y")),
        ("x += 1", ("x",)),
        ("x: int = 1\ny: int", ("x",)),
        ("for i, (j, k) in z: pass", ("i", "j", "k")),
        ("with a as b: pass", ("b",)),
        ("try:\n  pass\nexcept E as e:\n  f = 1", ("f",)),
        ("import a.b.c, d.e as g", ("a", "g")),
        ("from a import b, c as d", ("b", "d")),
        ("def f(): inner = 1", ("f",)),
        ("class A:\n  inner = 1\n  for j in (): pass", ("A",)),
        ("[w := i for i in x]", ("w",)),
        (
            "match v:\n  case [a, *b]: pass\n  case {'k': c, **d}: pass\n  case P() as e: pass",
            ("a", "b", "c", "d", "e"),
        ),
        ("def f():\n  global g\n  g = 1\nf()", ("f", "g")),
        ("def f():\n  global g\n  g = 1", ("f",)),
        ("x[0] = 1\ny.a = 2", ()),
        ("x = 1\ndel x", ()),
        ("if c: x = 1", ("x",)),
    ],
)
def test_names_that_are_bound(source: str, expected: tuple[str, ...]) -> None:
    """Every way to bind a name at top level is seen, and no other."""
    assert sorted(expected) == sorted(names(source).assigned)


def test_deleted_names_are_those_gone_at_the_end() -> None:
    """A name that is bound again after del is not gone."""
    assert ("x",) == names("del x\ndel y\ny = 1").deleted


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("df['c'] = 1", {"df"}),
        ("del d[k]", {"d"}),
        ("o.a.b[0].c = 1", {"o"}),
        ("x += 1", {"x"}),
        ("x.n += 1", {"x"}),
        ("for x.i in y: pass", {"x"}),
        ("(a[0], b.c) = z", {"a", "b"}),
        ("def f(): d['k'] = 1\nf()", {"d"}),
        ("def f(d): d['k'] = 1\nf(q)", set()),
        ("def f(): d['k'] = 1", set()),
        ("x.append(1)", set()),
    ],
)
def test_changes_in_place(source: str, expected: set[str]) -> None:
    """Assignments to items and attributes name the variable they begin with."""
    assert expected == set(names(source).mutated)


def test_names_on_which_methods_are_called() -> None:
    """The variable at the beginning of the chain is named."""
    assert {"x", "y"} == set(names("x.fit(1)\ny.layers[0].reset()\nf(z)").called_on)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x", {"x"}),
        ("x = x", {"x"}),
        ("if c: x", {"c"}),
        ("try:\n  x\nexcept NameError: pass", set()),
        ("with suppress(NameError): x", {"suppress", "NameError"}),
        ("with open(p) as f: x", {"open", "p", "x"}),
        ("c and x", {"c"}),
        ("[x for i in y]", {"y"}),
        ("def f(): return x\nf()", set()),
        ("from m import *\nx", set()),
        ("exec(s)\nx", {"exec", "s"}),
        ("get_ipython().run_line_magic('run', 'script.py')\nx", {"get_ipython"}),
        ("if c: x = 1\nx", {"c"}),
        ("for i in y: x\n", {"y"}),
    ],
)
def test_certain_reads_are_those_that_surely_happen_first(source: str, expected: set[str]) -> None:
    """Only a name that is read for sure, before anything may have set it, counts as certain."""
    assert expected == set(names(source).certain)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("get_ipython().run_line_magic('timeit', 'f(x)')", {"f", "x"}),
        ("get_ipython().run_cell_magic('time', '', 'y = g(z)')", {"y", "g", "z"}),
        ("get_ipython().system('ls {path} $name other')", {"path", "name"}),
        ("a = get_ipython().getoutput('wc {path}')", {"path"}),
        ("df.query('a > @limit')", {"limit"}),
        ("df.system('{path}')", set()),
    ],
)
def test_names_in_texts_that_are_evaluated_are_hints(source: str, expected: set[str]) -> None:
    """Names inside magics, shell commands and queries are found."""
    assert expected == set(names(source).hints)


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [("x = 1\ny = (1,\n", 2, "y = (1,"), ("x = 1\nreturn 5", 2, "return 5"), ("break", 1, "break"), ("a b", 1, "a b")],
)
def test_a_syntax_error_has_the_cells_own_text(source: str, line: int, text: str) -> None:
    """File, line, text and caret are those that running the cell would show."""
    with pytest.raises(SyntaxError) as caught:
        analyse(source, "<cell 7>")
    error = caught.value
    assert ("<cell 7>", line, text) == (error.filename, error.lineno, (error.text or "").rstrip())
    assert error.offset is not None


def test_warnings_are_left_to_the_run() -> None:
    """Reading a cell warns of nothing: running it will."""
    assert ("x",) == analyse("x = '\\d'\ndef f(): return '\\d'\nf()").assigned[:1]


def test_imports_have_their_full_names() -> None:
    """Submodules that a cell imports are known by their full names."""
    assert ("a.b.c", "numpy") == names("import a.b.c\nimport numpy as np\nfrom m import *").imports
