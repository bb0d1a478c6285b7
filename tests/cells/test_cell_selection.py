"""What a cell takes along: data as inputs, code with its text, and clear errors for what cannot be had."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import flyte
import pytest

from flyte_notebook.cells.analysis import analyse
from flyte_notebook.cells.values import is_code
from flyte_notebook.cells.variables import CannotSendError, Selection, UnknownNameError, select
from flyte_notebook.worker.values import pickling

NOTEBOOK = """
import math, threading
x = 5
threshold = 3
counter = 0
frame = {"a": [1, 2]}
lock = threading.Lock()
def helper(v): return v > threshold
def bump():
    global counter, made
    counter += 1
    made = 1
def calls_bump(): bump()
def locked(): return lock
class Model:
    def fit(self): return helper(self)
model = Model()
"""


@pytest.fixture
def notebook() -> dict[str, Any]:
    """Return a namespace as a kernel has it."""
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(NOTEBOOK, "<cell>", "exec", dont_inherit=True), namespace)  # noqa: S102 - what a kernel does
    return namespace


def selected(source: str, notebook: dict[str, Any], **named: Any) -> Selection:
    """Return what a cell takes along."""
    return select(analyse(source), notebook, **named)


def test_data_are_inputs_and_code_is_code(notebook: dict[str, Any]) -> None:
    """Variables become inputs in the order of the text; functions, classes and modules are shipped."""
    found = selected("helper(frame), x, Model, math.pi, model.fit(), print", notebook)
    assert ["frame", "x", "model"] == list(found.inputs)
    assert ["helper", "Model", "math"] == list(found.code)


def test_builtins_are_not_taken_unless_shadowed(notebook: dict[str, Any]) -> None:
    """A builtin is there anyway; a variable of its name is the user's."""
    notebook["max"] = 7
    assert ["max"] == list(selected("max, min, len", notebook).inputs)


def test_what_ipython_puts_into_a_notebook_is_not_taken(notebook: dict[str, Any]) -> None:
    """get_ipython, display and open are the worker's own; a variable of the user's named exit is his."""
    from IPython.core.getipython import get_ipython  # noqa: PLC0415 - for this test only
    from IPython.display import display  # noqa: PLC0415 - for this test only

    notebook.update(get_ipython=get_ipython, display=display, open=open, exit=3)
    found = selected("get_ipython(), display(1), open('f'), exit", notebook)
    assert (["exit"], []) == (list(found.inputs), list(found.code))


def test_named_inputs_replace_the_inferred_ones(notebook: dict[str, Any]) -> None:
    """With -i just those data are taken, read or not; code is found as before."""
    found = selected("helper(x), frame", notebook, inputs=["threshold", "x"])
    assert {"x": 5, "threshold": 3} == dict(found.inputs)
    assert ["helper"] == list(found.code)


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ("nowhere + 1", None, "name 'nowhere' is not defined"),
        ("thresold", None, "name 'thresold' is not defined; did you mean `threshold`?"),
        ("x", ["y_train"], "-i names `y_train`, and the notebook has no such name"),
        ("x", ["modle"], "-i names `modle`, and the notebook has no such name; did you mean `model`?"),
    ],
)
def test_a_name_that_exists_nowhere_is_a_clear_error(
    notebook: dict[str, Any], source: str, inputs: list[str] | None, message: str
) -> None:
    """What is surely read and nowhere to be had is an error before anything runs; it is a NameError."""
    with pytest.raises(UnknownNameError) as caught:
        selected(source, notebook, inputs=inputs)
    assert message == str(caught.value)
    assert isinstance(caught.value, NameError)


@pytest.mark.parametrize("source", ["if x: nowhere", "try:\n  nowhere\nexcept NameError: pass", "bump()\nmade"])
def test_a_name_that_may_be_there_in_time_is_left_to_the_task(notebook: dict[str, Any], source: str) -> None:
    """Nothing is refused that could work in a plain cell."""
    selected(source, notebook)


def test_names_that_helpers_set_are_known(notebook: dict[str, Any]) -> None:
    """Functions that set globals are followed through the functions they call."""
    assert {"counter", "made"} == selected("calls_bump()", notebook).may_set


def test_hints_count_if_the_notebook_has_them(notebook: dict[str, Any]) -> None:
    """Names inside a magic are taken if they are variables."""
    found = selected("get_ipython().run_line_magic('timeit', 'helper(x).sum()')", notebook)
    assert (["x"], ["helper"]) == (list(found.inputs), list(found.code))


def test_shipped_code_works_elsewhere(notebook: dict[str, Any]) -> None:
    """Helpers carry what they read, except what comes as an input."""
    found = selected("Model().fit(), helper(x), threshold", notebook)
    data, _ = found.ship()
    target: dict[str, Any] = {"__name__": "__main__"}
    target.update(pickling.loads(data, target))
    assert "threshold" not in target
    target["threshold"] = 100
    assert (False, True) == (target["helper"](5), target["helper"](101))


def test_code_that_cannot_be_pickled_is_named_with_the_culprit(notebook: dict[str, Any]) -> None:
    """The error names the variable and the way to what cannot be pickled, and survives pickling itself."""
    found = selected("locked(), helper(x)", notebook)
    with pytest.raises(CannotSendError) as caught:
        found.ship()
    assert "locked" == caught.value.name
    assert "`locked` cannot be sent to the task: `locked -> lock` is a _thread.lock" in str(caught.value)
    assert str(caught.value) == str(pickling.loads(pickling.dumps(caught.value)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math, True),
        (math.sin, True),
        (int, True),
        (lambda: 1, True),
        (functools.lru_cache(lambda: 1), True),
        (list[int], True),
        (flyte.TaskEnvironment(name="selection"), True),
        (flyte.Resources(memory="1Gi"), True),
        (dict.fromkeys, True),
        ([].append, False),
        (functools.partial(print), False),
        (flyte.errors.OOMError("a", "b", "c"), False),
        (threading.Lock(), False),
        (1, False),
        (None, False),
    ],
)
def test_code_and_data(value: Any, expected: bool) -> None:  # noqa: FBT001 - an expected value
    """Code is what has no content of its own to speak of."""
    assert expected is is_code(value)
