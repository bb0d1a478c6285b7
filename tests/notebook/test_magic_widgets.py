"""Widgets of a task: progress lives in the notebook, anything else is shown as its text, never as a missing model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kernels import Kernel, Reply

pytestmark = pytest.mark.jupyter

VIEW = "application/vnd.jupyter.widget-view+json"


def views(reply: Reply) -> list[str]:
    """Return the models that a cell displays, but for those of the live line."""
    return [bundle[VIEW]["model_id"] for bundle in reply.shown if VIEW in bundle]


def state(kernel: Kernel, model: str) -> dict[str, Any]:
    """Return what the notebook knows of a widget."""
    known = f"__import__('ipywidgets').widgets.widget._instances[{model!r}]"
    found: dict[str, Any] = kernel.value(f"dict({{k: repr(v) for k, v in {known}.get_state().items()}})")
    return found


def test_progress_is_live_and_ends_where_the_task_left_it(kernel: Kernel) -> None:
    """The bar in the notebook has the values of the task's."""
    reply = kernel.run(
        "%%flyte_task --quiet\nimport ipywidgets\nbar = ipywidgets.IntProgress(max=50, description='going')\n"
        "display(bar)\nfor _ in range(7):\n    bar.value += 1\nbar.bar_style = 'success'\ndel bar"
    ).ok()
    (model,) = views(reply)
    found = state(kernel, model)
    assert ("7", "50", "'going'", "'success'") == tuple(
        found[key] for key in ("value", "max", "description", "bar_style")
    )


def test_a_box_of_progress_and_texts_is_live(kernel: Kernel) -> None:
    """As tqdm makes it; what is in it changes too, and what is closed is gone."""
    reply = kernel.run(
        "%%flyte_task --quiet\nimport ipywidgets as w\nleft, bar, right = w.HTML(), w.FloatProgress(max=1), w.HTML()\n"
        "box = w.HBox([left, bar, right])\ndisplay(box)\nbar.value = 0.5\nright.value = '<b>half</b>'\n"
        "gone = w.HTML('x')\ngone.close()\ndel left, bar, right, box, gone"
    ).ok()
    (model,) = views(reply)
    children = [one.split("_")[-1].strip("'") for one in state(kernel, model)["children"].strip("[]()").split(", ")]
    assert ["0.5", "'<b>half</b>'"] == [state(kernel, one)["value"] for one in children[1:]]


@pytest.mark.parametrize("made", ["Button(description='press')", "Output()", "IntSlider(3)", "HBox([Button()])"])
def test_what_a_person_would_use_is_shown_as_its_text(kernel: Kernel, made: str) -> None:
    """A page finds no model of it, so it is not asked for one."""
    reply = kernel.run(f"%%flyte_task --quiet\nimport ipywidgets\nfrom ipywidgets import *\ndisplay({made})").ok()
    assert [] == views(reply)
    assert made.partition("(")[0] in reply.shown_text


def test_output_that_is_captured_by_a_widget_is_printed(kernel: Kernel) -> None:
    """There is nobody who would hand it to the widget."""
    cell = "%%flyte_task --quiet\nimport ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('inside')\ndel out"
    assert "inside\n" == kernel.run(cell).ok().stdout


def test_a_task_that_dies_leaves_its_progress(kernel: Kernel) -> None:
    """As far as it came."""
    reply = kernel.run(
        "%%flyte_task --quiet\nimport ipywidgets, os, time\nbar = ipywidgets.IntProgress(max=9)\ndisplay(bar)\n"
        "bar.value = 4\ntime.sleep(0.2)\nos._exit(3)"
    )
    assert reply.ename is not None
    assert "4" == state(kernel, views(reply)[0])["value"]
