"""``%flyte explain`` in a kernel: by name, by variable, and for the last failure."""

from __future__ import annotations

import builtins
import inspect
import re
from typing import TYPE_CHECKING

import pytest
from kernels import started

from flyte_notebook import catalogue
from flyte_notebook.notebook import magics, options

if TYPE_CHECKING:
    from kernels import Kernel


@pytest.mark.jupyter
def test_a_name_is_explained_as_text_and_as_html(kernel: Kernel) -> None:
    """The result of the magic is an explanation that shows itself in both forms."""
    reply = kernel.run("%flyte explain oomkilled").ok()
    (data,) = [content["data"] for kind, content in reply.events if kind == "execute_result"]
    assert {"text/plain", "text/html"} == set(data)
    assert data["text/plain"].startswith("OOMError: The task needed more memory than its limit")
    assert 'data-explains="OOMError"' in data["text/html"]


@pytest.mark.jupyter
def test_a_variable_that_holds_an_error_is_explained(kernel: Kernel) -> None:
    """A wrong call of an error class is explained by what was wrong with this one."""
    kernel.run("try:\n    flyte.errors.OOMError('no memory')\nexcept TypeError as e:\n    wrong = e").ok()
    shown = kernel.run("%flyte explain wrong").ok().result
    assert shown.startswith("TypeError: ")
    assert '`OOMError("OOMKilled", "what happened")`' in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("OMError", "there is no error called 'OMError'; did you mean OOMError"),
        ("os", "explain takes an error class, an error, or the name of one, not module"),
    ],
)
@pytest.mark.jupyter
def test_what_cannot_be_explained_is_one_line(kernel: Kernel, line: str, words: str) -> None:
    """A wrong name and a thing that is no error get a line that says so, and no traceback."""
    reply = kernel.run(f"%flyte explain {line}")
    assert f"UsageError: %flyte explain: {words}" in reply.stderr
    assert "" == reply.traceback


@pytest.mark.jupyter
def test_without_a_name_the_last_failure_is_explained() -> None:
    """The explanation of the last failure says what happened this time, and which clause catches it."""
    with started() as kernel:
        kernel.run("%load_ext flyte_notebook").ok()
        assert "nothing has failed yet" in kernel.run("%flyte explain").stderr
        assert "error" == kernel.run("%%flyte_task oven --memory 200Mi\n{}['heat']").status
        shown = kernel.run("%flyte explain").ok().result
    assert shown is not None
    assert shown.startswith("RuntimeUserError: ")
    assert "This time: raised KeyError: 'heat'" in shown
    assert 'if error.code != "KeyError":' in shown


def test_what_the_words_name_exists() -> None:
    """Options and sub-commands that the catalogue tells people to use are in this version."""
    of_python = [name for name, thing in vars(builtins).items() if inspect.isclass(thing) and "Err" in thing.__name__]
    text = " ".join(
        part
        for name in [*catalogue.names(), *of_python]
        for one in [catalogue.explain(name)]
        for part in (one.meaning, one.raised_on_cluster, one.raised_here, one.prevent)
    )
    there = {option.name for option in options.OPTIONS}
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) - {"--apple-silicon"} <= there
    assert set(re.findall(r"%flyte (\w+)", text)) <= set(magics.SUB_COMMANDS)
