"""What functions and classes hold is changed by a task cell as by a plain one: it comes back, or is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from beside import Case, both

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

CONF = (
    "class Conf:\n    debug = False\n    seen = {}\n    count = 0\n    def bump(self):\n        type(self).count += 1\n"
)
COUNTER = (
    "def make():\n    n = 0\n    def count():\n        nonlocal n\n        n += 1\n        return n\n    return count\n"
)
DECORATED = (
    "import functools\ndef counted(function):\n    @functools.wraps(function)\n    def call(*args):\n"
    "        call.calls += 1\n        return function(*args)\n    call.calls = 0\n    return call\n"
    "@counted\ndef double(x):\n    return 2 * x\n"
)

CASES = {
    "a class attribute": Case("Conf.debug = True", CONF, "Conf.debug"),
    "a dict in a class": Case("Conf.seen['a'] = 1", CONF, "Conf.seen"),
    "a counter in a class, through an instance": Case(
        "conf.bump(); conf.bump()", CONF + "conf = Conf()", "Conf.count, conf.count"
    ),
    "a class attribute, through an alias": Case("Conf.debug = True", CONF + "Alias = Conf", "Alias.debug"),
    "a class attribute, through a subclass": Case("Conf.count += 1", CONF + "class Sub(Conf):\n    pass", "Sub.count"),
    "a class attribute that is new": Case("setattr(Conf, 'more', [1])", CONF, "Conf.more"),
    "a class attribute that is deleted": Case("del Conf.debug", CONF, "hasattr(Conf, 'debug')"),
    "a registry": Case(
        "class Made(Base):\n    pass\nlen(Base.known)",
        "class Base:\n    known = []\n    def __init_subclass__(cls):\n        Base.known.append(cls.__name__)",
        "Base.known",
    ),
    "a function attribute": Case("f.calls = f.calls + 1", "def f():\n    pass\nf.calls = 1", "f.calls"),
    "a decorator that counts": Case("double(3)", DECORATED, "double.calls"),
    "a closure": Case("count()", COUNTER + "count = make()\ncount()", "count()"),
    "a closure over a list": Case(
        "add(1)", "def make():\n    held = []\n    return lambda x: held.append(x) or held\nadd = make()", "add(2)"
    ),
    "a default that is changed": Case(
        "keep(1)", "def keep(x, held=[]):\n    held.append(x)\n    return held", "keep(2)"
    ),
    "nothing is changed": Case("Conf().debug, f()", CONF + "def f():\n    return 1", "Conf.debug, f()"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_code_holds_is_changed_as_by_a_plain_cell(kernel: Kernel, name: str) -> None:
    """What a later plain cell finds is the same after both."""
    plain, task = both(kernel, CASES[name])
    assert plain == task


def test_what_cannot_come_back_is_named_once(kernel: Kernel) -> None:
    """A cache of ``functools``, and what is set in a module."""
    kernel.run(
        "import functools, textwrap\n@functools.lru_cache\ndef fib(n):\n"
        "    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
    ).ok()
    cell = "%%flyte_task\ntextwrap.mine = 1\nfib(20)"
    first, second = kernel.run(cell).ok(), kernel.run(cell).ok()
    end = " changed in the task only; make such a change in a cell without %%flyte_task"
    assert ["the cache of `fib`" + end, "the module `textwrap`" + end] == first.notes
    assert ("6765", []) == (second.result, second.notes)


def test_with_named_outputs_a_change_is_named(kernel: Kernel) -> None:
    """``-o`` says what comes back; code that changed beside it is named like data."""
    kernel.run(CONF).ok()
    reply = kernel.run("%%flyte_task -o found\nfound = 1\nConf.debug = True").ok()
    assert ["`Conf` changed in the task only; add `-o Conf`"] == reply.notes
    assert "False" == kernel.run("Conf.debug").result


def test_code_that_did_not_change_stays_the_same_object(kernel: Kernel) -> None:
    """A cell that only calls a helper does not replace it."""
    kernel.run(CONF + "def f():\n    return Conf.debug\nbefore = f, Conf").ok()
    assert [] == kernel.run("%%flyte_task\nf(), Conf()").ok().notes
    assert "True" == kernel.run("before[0] is f and before[1] is Conf").result
