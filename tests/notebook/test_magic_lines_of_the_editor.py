"""Lines are counted as the editor counts them: the magic's own line is line 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

FAILING = {
    "at once": ("%%flyte_task\n1 / 0", 2),
    "further down": ("%%flyte_task named --memory 100Mi\nx = 1\n\n# a comment\ny = x / 0", 5),
    "below empty lines": ("%%flyte_task\n\n\n1 / 0", 4),
    "with an await": ("%%flyte_task\nimport asyncio\nawait asyncio.sleep(0)\n1 / 0", 4),
    "in a function": ("%%flyte_task\ndef f():\n    return 1 / 0\nf()", 3),
    "after a magic": ("%%flyte_task\n%time 1\n1 / 0", 3),
    "out of memory": ("%%flyte_task --memory 100Mi\nx = 1\nheld = bytearray(300 << 20)", 3),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_stands_on_the_line_of_the_editor(kernel: Kernel, name: str) -> None:
    """On the card, in the traceback and in the failure."""
    cell, number = FAILING[name]
    reply = kernel.run(cell)
    text = cell.splitlines()[number - 1].strip()
    assert reply.ename is not None
    assert (number, text) == kernel.value("(fn.last_failure.line.number, fn.last_failure.line.text.strip())")
    assert f"> {number} " in reply.shown_text
    if "memory" not in name:
        assert f"line {number}" in kernel.value("fn.last_failure.traceback")


@pytest.mark.parametrize("before", ["", "\n", "\n  \n"])
def test_empty_lines_above_the_magic_count(kernel: Kernel, before: str) -> None:
    """They are lines of the editor."""
    kernel.run(f"{before}%%flyte_task\n1 / 0")
    assert 2 + before.count("\n") == kernel.value("fn.last_failure.line.number")


@pytest.mark.parametrize(("cell", "number"), [("%%flyte_task\nx = (", 2), ("%%flyte_task\nx = 1\n\nreturn x", 4)])
def test_a_syntax_error_stands_on_the_line_of_the_editor(kernel: Kernel, cell: str, number: int) -> None:
    """With its text and caret."""
    reply = kernel.run(cell)
    assert "SyntaxError" == reply.ename
    assert f"line {number}" in reply.traceback
    assert cell.splitlines()[number - 1] in reply.traceback


def test_a_name_that_nobody_has_stands_on_the_line_of_the_editor(kernel: Kernel) -> None:
    """It is refused before anything runs."""
    reply = kernel.run("%%flyte_task\nx = 1\nprint(nobody_has_this)")
    assert "NameError" == reply.ename
    assert "line 3" in reply.traceback


def test_a_helper_of_another_cell_keeps_its_lines(kernel: Kernel) -> None:
    """Whether that was a plain cell or a task."""
    for magic, number in (("", 3), ("%%flyte_task\n", 4)):
        kernel.run(f"{magic}def helper():\n    x = 0\n    return 1 / x").ok()
        kernel.run("%%flyte_task\n\nhelper()")
        assert (number, "return 1 / x") == kernel.value("(fn.last_failure.line.number, fn.last_failure.line.text)")
        assert f"----> {number}     return 1 / x" in kernel.run("helper()").traceback
