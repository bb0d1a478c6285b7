"""Tests of what a person sees of an explanation: everything is in both forms, and nothing escapes from the HTML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from failures import NASTY
from test_html import Tree

import flyte_notebook as fn
from flyte_notebook import catalogue
from flyte_notebook.catalogue import explain
from flyte_notebook.errors import OOMError
from flyte_notebook.views.failures.explanation import WIDTH, explanation_html, explanation_text, shown

ALLOWED = {*("section", "style", "div", "h3", "h4", "span", "bdi", "p", "code", "dl", "dt", "dd", "pre")}
NAMES = [*catalogue.names(), "ValueError", "MemoryError", "KeyboardInterrupt", "CancelledError"]


def words(text: str) -> str:
    """Return a text with single spaces and without backticks."""
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_in_both_forms(name: str) -> None:
    """Text and HTML hold every sentence, the call, the codes, the program and the links."""
    explanation = explain(name)
    tree = Tree(explanation_html(explanation))
    for seen in (words(explanation_text(explanation)), words("".join(tree.texts))):
        for sentence in (
            *(explanation.meaning, explanation.raised_on_cluster, explanation.raised_here, explanation.prevent),
            *(explanation.signature, ", ".join(explanation.codes), ", ".join(explanation.related)),
        ):
            assert words(sentence) in seen
        assert words(explanation.recover) in seen


@pytest.mark.parametrize("name", NAMES)
def test_the_text_fits_a_terminal(name: str) -> None:
    """Lines are at most `WIDTH` wide, but for the program's own and for names that cannot be broken."""
    explanation = explain(name)
    program = {f"    {line}" for line in explanation.recover.splitlines()}
    text = explanation_text(explanation)
    assert [] == [line for line in text.splitlines() if len(line) > WIDTH and line not in program]
    assert text.startswith(f"{name}: ")


def test_the_program_can_be_copied_from_both_forms() -> None:
    """The program keeps its lines: in the HTML as one block, in the text indented."""
    program = explain("OOMError").recover
    tree = Tree(explanation_html(explain("OOMError")))
    assert program.rstrip() in "".join(tree.texts)
    indented = "\n".join(f"    {line}" if line else "" for line in program.rstrip().splitlines())
    assert indented in explanation_text(explain("OOMError"))


def test_whether_it_is_real_here_is_said() -> None:
    """A reader sees whether this machine can raise the error for real."""
    assert "Here, for real" in explanation_text(explain("OOMError"))
    assert "Here, for real" in explanation_html(explain("OOMError"))
    assert "Here, for real" not in explanation_text(explain("ImagePullBackOffError"))
    assert "Here, for real" not in explanation_html(explain("ImagePullBackOffError"))


def test_facts_of_an_instance_are_shown() -> None:
    """What is known about this one error stands in both forms, and no heading for it when nothing is."""
    error = OOMError("OOMKilled", "Pod failed.")
    error.failure = SimpleNamespace(headline="ran out of memory (limit 250 MiB)")  # type: ignore[attr-defined]
    assert "This time: ran out of memory (limit 250 MiB)" in explanation_text(explain(error))
    assert "ran out of memory (limit 250 MiB)" in explanation_html(explain(error))
    assert "This time" not in explanation_text(explain("OOMError")) + explanation_html(explain("OOMError"))


def test_nothing_escapes_from_the_html() -> None:
    """Whatever a class of the user is called and says, the HTML stays one element without scripts."""
    explanation = explain("OOMError")
    text = {field.name: NASTY for field in fields(explanation) if isinstance(getattr(explanation, field.name), str)}
    tree = Tree(
        explanation_html(replace(explanation, **text, facts=NASTY, codes=(NASTY,), related=(NASTY,), bases=(NASTY,)))
    )
    assert ["section"] == tree.roots
    assert [] == tree.open
    assert {name for name, _ in tree.elements} <= ALLOWED
    attributes = {key for _, given in tree.elements for key in given}
    assert attributes <= {"class", "data-explains", "role", "aria-label", "dir"}
    assert "\x1b" not in "".join(tree.texts)


def test_it_is_no_card_of_a_failure() -> None:
    """What counts cards by their class does not count explanations, and the style is of its own name."""
    html = explanation_html(explain("OOMError"))
    assert "flyte-notebook-card" not in html
    assert html.startswith('<section class="flyte-notebook-explanation" data-explains="OOMError"')


def test_a_shown_explanation_is_the_same_value() -> None:
    """It has the same fields, and shows itself in every way that a front end asks for."""
    explanation = shown(explain("OOMError"))
    assert all(
        getattr(explanation, field.name) == getattr(explain("OOMError"), field.name) for field in fields(explanation)
    )
    assert explanation_text(explanation) == str(explanation) == repr(explanation)
    assert explanation_html(explanation) == explanation._repr_html_()
    assert explanation == shown(explain("oomkilled"))


def test_the_function_of_the_package_shows_itself() -> None:
    """``fn.explain`` gives what can be printed, and refuses what the catalogue refuses."""
    assert str(fn.explain("OOMError")) == explanation_text(explain("OOMError"))
    assert isinstance(fn.explain(OOMError), fn.Explanation)
    with pytest.raises(LookupError, match="did you mean OOMError"):
        fn.explain("OMError")


def test_from_a_terminal() -> None:
    """One line of shell explains an error."""
    code = "import flyte_notebook as fn; print(fn.explain('OOMError'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OOMError: The task needed more memory than its limit")
