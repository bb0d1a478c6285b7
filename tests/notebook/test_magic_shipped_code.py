"""Code that holds what pickle refuses, or that no import finds, runs in a task cell as in a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

CACHED = """import functools, threading
class Circle:
    def __init__(self, radius):
        self.radius = radius
    @functools.cached_property
    def area(self):
        'Its area.'
        print('computed')
        return 3 * self.radius ** 2
"""
DISPATCH = """import functools
@functools.singledispatch
def show(value, sep='.'):
    'Show.'
    return f'any{sep}{value}'
class Point: pass
"""
REGISTERED = "@show.register(int)\ndef impl(value, sep='.'):\n    return f'int{sep}{value + shift}'\nshift = 1\n"
LISTED = "@show.register(list)\ndef impl(value):\n    return [show(x) for x in value]"
METHOD = """import functools
class Shower:
    name = 'shower'
    @functools.singledispatchmethod
    def show(self, value):
        return self.name, value
    @show.register
    def _(self, value: int):
        return self.name, 'int', value
"""
FILES = """import importlib.util, os, sys, tempfile
_kept |= {"importlib", "os", "sys", "tempfile"}
_cwd = os.getcwd()
folder = tempfile.mkdtemp()
with open(folder + '/side_mod.py', 'w') as _file:
    _file.write("import math\\nTABLE = {'a': 1}\\nclass Thing:\\n    kind = 'thing'\\n"
                "def double(x):\\n    return 2 * x * TABLE['a']\\n"
                "def fail():\\n    raise ValueError('in the module')\\n")
"""
LOADED = FILES + (
    "_spec = importlib.util.spec_from_file_location('side_mod', folder + '/side_mod.py')\n"
    "side = importlib.util.module_from_spec(_spec)\n_spec.loader.exec_module(side)\n"
)
IN_MODULES = LOADED + "sys.modules['side_mod'] = side\n"
RELATIVE = FILES + (
    "os.mkdir(folder + '/lib'); os.rename(folder + '/side_mod.py', folder + '/lib/rel_mod.py')\nos.chdir(folder)\n"
    "sys.path.insert(0, 'lib')\nimport rel_mod\nos.chdir(tempfile.mkdtemp())\n"
)

CASES = {
    "a cached property": Case("c = Circle(2)\nprint(c.area, c.area)", CACHED, "vars(c)"),
    "a cached property of an input": Case("c.area", CACHED + "c = Circle(2)", "c.radius"),
    "one that was computed": Case("c.area", CACHED + "c = Circle(2); c.area", "vars(c)"),
    "what it says of itself": Case(
        "print(Circle.area.__doc__, Circle.area.attrname, type(Circle.__dict__['area']).__name__)", CACHED
    ),
    "a subclass": Case("Ball(1).area", CACHED + "class Ball(Circle): pass"),
    "a class that reads a global there": Case(
        "Scaled().size",
        CACHED + "scale = 4\nclass Scaled:\n    @functools.cached_property\n    def size(self):\n        return scale",
    ),
    "a single dispatch": Case("print(show(1), show('a', sep='-'))", DISPATCH, "show(2)"),
    "with implementations": Case("print(show(1), show(True), show('a'))", DISPATCH + REGISTERED, "show(2)"),
    "with one for a class of the notebook": Case(
        "print(show(Point()), show(1)); print(show.__name__, show.__doc__)",
        DISPATCH + "@show.register\ndef impl(value: Point):\n    return 'a point'",
        "show(Point())",
    ),
    "registered in the cell": Case(
        "@show.register(str)\ndef impl(value):\n    return 'a text'\nshow('x')",
        DISPATCH + REGISTERED,
        "show(3), show('y')",
    ),
    "one that calls itself": Case(
        "show([1, [2]])",
        DISPATCH + REGISTERED + LISTED,
    ),
    "in a helper": Case("helper()", DISPATCH + REGISTERED + "def helper():\n    return show(5)"),
    "a method": Case("print(Shower().show('a'), Shower().show(2))", METHOD),
    "a module from a path": Case("print(side.double(4), side.Thing.kind, side.__name__)", LOADED, "side.double(5)"),
    "a module from a path, in sys.modules": Case("print(side.double(4))", IN_MODULES, "side.double(5)"),
    "imported by its name, too": Case("import side_mod\nprint(side_mod is side)", IN_MODULES),
    "its function": Case("print(double(4), double.__module__)", LOADED + "double = side.double", "double(5)"),
    "its instance": Case("print(thing.kind, isinstance(thing, side.Thing))", LOADED + "thing = side.Thing()"),
    "its state": Case("print(side.double(4))", LOADED + "side.TABLE['a'] = 5", "side.double(1)"),
    "in a helper function": Case("helper()", IN_MODULES + "def helper():\n    return side.double(8)"),
    "a relative entry": Case("print(rel_mod.double(4), rel_mod.Thing.kind)", RELATIVE, "rel_mod.double(5)"),
    "a relative entry, in a helper": Case("f()", RELATIVE + "def f():\n    return rel_mod.double(3)"),
    "a relative entry, its instance": Case("thing.kind", RELATIVE + "thing = rel_mod.Thing()"),
}
CLEANED = (
    "import os, sys\nif '_cwd' in globals(): os.chdir(_cwd)\n"
    "for _name in ('side_mod', 'rel_mod'): sys.modules.pop(_name, None)\n"
    "while 'lib' in sys.path: sys.path.remove('lib')"
)


@pytest.mark.parametrize("name", CASES)
def test_code_runs_as_in_a_plain_cell(kernel: Kernel, name: str) -> None:
    """Output, value, error and what a later plain cell finds are those of a plain cell."""
    case = CASES[name]
    try:
        plain, task = both(kernel, Case(case.cell, f"{CLEANED}\n{case.setup}", case.after))
    finally:
        kernel.run(CLEANED).ok()
    assert plain == task


def test_a_property_that_cannot_be_shipped_is_named(kernel: Kernel) -> None:
    """The class, the property and what it holds stand in the message."""
    kernel.run(
        "import functools, threading\nclass Held:\n    def make(lock=threading.Lock()):\n"
        "        @functools.cached_property\n        def value(self):\n            return lock\n        return value\n"
        "    value = make()\n    del make"
    ).ok()
    reply = kernel.run("%%flyte_task\nHeld().value")
    assert "error" == reply.status
    assert "Held.value" in (reply.evalue or "")
    assert "_thread.lock" in (reply.evalue or "")


def test_an_error_in_a_module_from_a_path_has_its_line(kernel: Kernel) -> None:
    """The traceback shows the line of the file."""
    try:
        kernel.run(LOADED).ok()
        reply = kernel.run("%%flyte_task\nside.fail()")
    finally:
        kernel.run(CLEANED).ok()
    assert "RuntimeUserError" == reply.ename
    assert "raise ValueError('in the module')" in str(reply.traceback) + str(reply.card)


def test_a_module_whose_file_is_gone_is_named(kernel: Kernel) -> None:
    """Module and file stand in the message."""
    try:
        kernel.run(IN_MODULES + "os.remove(folder + '/side_mod.py')").ok()
        reply = kernel.run("%%flyte_task\nside.double(1)")
    finally:
        kernel.run(CLEANED).ok()
    assert "error" == reply.status
    assert "side_mod" in (reply.evalue or "")
    assert "side_mod.py" in (reply.evalue or "")
