"""An uncaught error of the chosen classes becomes a card and a short traceback; the cell still counts as failed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import documents
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from flyte_notebook.notebook.uncaught import install

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLE = "application/vnd.flyte-notebook.failure+json"


class FlyteError(RuntimeError):
    """Stands for the SDK's errors."""


class OtherError(Exception):
    """An error of somebody else's."""


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """Give a shell without history whose errors go to ``sys.stdout``; restore what errors set."""
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.HistoryAccessor.enabled = False
    settings.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=settings)
    shell.user_ns.update(FlyteError=FlyteError, OtherError=OtherError)
    yield shell
    InteractiveShell.clear_instance()
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        sys.__dict__.pop(name, None)


def card(error: BaseException) -> tuple[Any, list[str]]:
    """Render an error as the product would."""
    return lambda: sys.stdout.write(f"card of {error}\n"), ["short traceback", f"{type(error).__name__}: {error}"]


def test_the_card_stands_above_the_lines_and_the_rest_is_not_shown(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is the bundle's text and then the given lines; the result carries the exception."""
    handler = install(shell, card, (FlyteError,))
    result = shell.run_cell("raise FlyteError('died')")
    assert capsys.readouterr().out == "card of died\nshort traceback\nFlyteError: died\n"
    assert isinstance(result.error_in_exec, FlyteError)
    assert sys.last_value is result.error_in_exec
    handler.uninstall()


def test_without_a_card_there_are_the_lines_only(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """A card that stands already is not shown twice."""
    install(shell, lambda error: (None, [str(error)]), (FlyteError,))
    shell.run_cell("raise FlyteError('died')")
    assert capsys.readouterr().out == "died\n"


def test_other_exceptions_are_shown_as_ever(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception of another class, and one that ``render`` leaves alone, gets IPython's own traceback."""
    install(shell, lambda error: None if str(error) == "plain" else card(error), (FlyteError,))
    for source in ("raise OtherError('other')", "raise FlyteError('plain')"):
        shell.run_cell(source)
        shown = capsys.readouterr().out
        assert "Traceback (most recent call last)" in shown
        assert source in shown
        assert "card of" not in shown


def test_an_interrupt_with_a_cause_can_be_rendered(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """KeyboardInterrupt may be among the classes."""
    install(shell, card, (KeyboardInterrupt,))
    shell.run_cell("raise KeyboardInterrupt('stop') from FlyteError('aborted')")
    assert capsys.readouterr().out == "card of stop\nshort traceback\nKeyboardInterrupt: stop\n"


@pytest.mark.parametrize("bundle_and_lines", [None, 3, (lambda: None, 3)], ids=["raises", "no pair", "no lines"])
def test_a_render_that_fails_never_hides_the_error(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], bundle_and_lines: Any
) -> None:
    """When ``render`` raises, or returns nonsense, the plain traceback is shown, now and the next time."""

    def broken(_error: BaseException) -> Any:
        if bundle_and_lines is None:
            raise ValueError("render is broken")
        return bundle_and_lines

    install(shell, broken, (FlyteError,))
    for _ in range(2):
        shell.run_cell("raise FlyteError('died')")
        shown = capsys.readouterr().out
        assert "Traceback (most recent call last)" in shown
        assert "FlyteError: died" in shown


def test_a_handler_that_was_there_before_keeps_its_classes_and_comes_back(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours goes first for our classes, the one before for its own, alone again after uninstall."""

    def before(_shell: object, kind: type, value: object, _tb: object, tb_offset: object = None) -> list[str]:
        print(f"before: {kind.__name__} {value}")  # noqa: T201 - what such a handler does
        return []

    shell.set_custom_exc((OtherError, FlyteError), before)
    handler = install(shell, lambda error: None if str(error) == "plain" else card(error), (FlyteError,))
    shell.run_cell("raise OtherError('theirs')")
    shell.run_cell("raise FlyteError('plain')")
    shell.run_cell("raise FlyteError('ours')")
    assert capsys.readouterr().out == (
        "before: OtherError theirs\nbefore: FlyteError plain\ncard of ours\nshort traceback\nFlyteError: ours\n"
    )
    handler.uninstall()
    handler.uninstall()
    shell.run_cell("raise FlyteError('again')")
    assert capsys.readouterr().out == "before: FlyteError again\n"
    assert shell.custom_exceptions == (OtherError, FlyteError)


def test_a_handler_before_that_fails_does_not_take_ours_along(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """IPython drops every custom handler when one fails; ours stays."""

    def failing(*_arguments: object, **_options: object) -> list[str]:
        raise ValueError("broken")

    shell.set_custom_exc((OtherError,), failing)
    install(shell, card, (FlyteError,))
    shell.run_cell("raise OtherError('theirs')")
    assert "theirs" in "".join(capsys.readouterr())
    shell.run_cell("raise FlyteError('ours')")
    assert capsys.readouterr().out == "card of ours\nshort traceback\nFlyteError: ours\n"


def test_uninstall_leaves_a_handler_that_was_set_later(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone else's later handler is not taken away, and through it ours shows plain tracebacks."""
    handler = install(shell, card, (FlyteError,))
    ours = shell.CustomTB

    def later(_shell: object, *arguments: object, tb_offset: object = None) -> list[str]:
        lines: list[str] = ours(*arguments, tb_offset=tb_offset)
        return lines

    shell.set_custom_exc((FlyteError,), later)
    handler.uninstall()
    assert shell.custom_exceptions == (FlyteError,)
    shell.run_cell("raise FlyteError('died')")
    shown = capsys.readouterr().out
    assert "Traceback (most recent call last)" in shown
    assert "card of" not in shown


LOAD = f"""
import asyncio
from flyte_notebook.notebook.uncaught import install

class OOMError(RuntimeError): pass

def render(error):
    if "broken" in str(error):
        raise ValueError("render is broken")
    bundle = {{"text/html": "<section>card</section>", "text/plain": "card", "{BUNDLE}": {{"error": "OOMError"}}}}
    return lambda: get_ipython().display_pub.publish(data=bundle), ["a short traceback", "OOMError: died"]

handler = install(get_ipython(), render, (OOMError,))

@get_ipython().register_magic_function
def boom(line):
    raise OOMError(line)
"""
FAILING = {
    "sync": "print('before')\nraise OOMError('died')",
    "async": "await asyncio.sleep(0)\nasync def task():\n    raise OOMError('died')\nawait task()",
    "magic": "%boom died",
}


@pytest.mark.jupyter
def test_in_a_kernel_the_cell_fails_with_a_card_and_a_short_traceback() -> None:
    """For sync cells, cells that await, and magics: one display, one error with the class as ``ename``, no more."""
    sources = [LOAD, *FAILING.values(), "raise OOMError('broken')", "handler.uninstall()", "raise OOMError('plain')"]
    notebook = documents.made(sources)
    replies: list[dict[str, Any]] = []

    def keep(execute_reply: dict[str, Any], **_cell: object) -> None:
        replies.append(execute_reply["content"])

    documents.execute(notebook, timeout=60, allow_errors=True, on_cell_error=keep)
    load, *failing, broken, removed, plain = (cell.outputs for cell in notebook.cells)
    assert load == []
    for name, outputs in zip(FAILING, failing, strict=True):
        shown, error = (output for output in outputs if output.output_type != "stream")
        assert shown.output_type == "display_data", name
        assert shown.data == {
            "text/html": "<section>card</section>",
            "text/plain": "card",
            BUNDLE: {"error": "OOMError"},
        }
        assert (error.ename, error.evalue) == ("OOMError", "died"), name
        assert error.traceback == ["a short traceback", "OOMError: died"]
    assert [output.ename for output in broken if output.output_type == "error"] == ["OOMError"]
    assert removed == []
    assert [(reply["status"], reply["ename"]) for reply in replies] == [("error", "OOMError")] * (len(FAILING) + 2)
    for outputs in (broken, plain):
        assert "-----" in outputs[-1].traceback[0]
        assert "display_data" not in [output.output_type for output in outputs]
