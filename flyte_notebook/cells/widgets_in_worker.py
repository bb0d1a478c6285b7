"""Sends the state of a task's widgets to the notebook, which shows them, for example progress bars.

A worker has no page. Widgets that only show something (`SHOWN`: progress, as ``tqdm.notebook`` makes it, texts, boxes
of those) get a comm that sends through the worker's channel, and `flyte_notebook.notebook.widgets_of_tasks` makes their
copies in the kernel. An interactive widget is shown as its text, as it could not get any input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from flyte_notebook.core.reliance import Reliance
from flyte_notebook.worker.process import context
from flyte_notebook.worker.process.after_import import call_after_import

RELIES = Reliance(
    key="widgets of tasks",
    library="ipywidgets",
    behaviour="widgets speak through `comm.create_comm`, and name their model and their parts as in ipywidgets 8",
    lost="progress bars of tasks: they are shown as text",
    where="first use",
)

MIME_TYPE = "application/vnd.jupyter.widget-view+json"
REFERENCE = "IPY_MODEL_"
"""The prefix of a reference to another widget in a widget's state."""

SHOWN = frozenset(
    {
        *("IntProgressModel", "FloatProgressModel", "HTMLModel", "HTMLMathModel", "LabelModel"),
        *("BoxModel", "HBoxModel", "VBoxModel", "GridBoxModel", "LayoutModel", "ProgressStyleModel"),
        *("DescriptionStyleModel", "HTMLStyleModel", "HTMLMathStyleModel", "LabelStyleModel"),
    }
)
"""Names of models of ipywidgets 8 that only show something and take no input."""

_states: dict[str, dict[str, Any]] = {}
"""The state of each widget of this process, by the id of its comm."""


def install_lazily() -> None:
    """Let widgets send through this worker's channel, once their library is imported."""
    call_after_import("comm", _install)


def as_far_as_shown(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the data of a display without widgets that are not in the notebook, and the widget that is."""
    view = data.get(MIME_TYPE)
    if view is None:
        return data, {}
    model = str(view.get("model_id"))
    if _is_shown(model):
        return data, {"widget": model}
    return {kind: value for kind, value in data.items() if kind != MIME_TYPE}, {}


def _install() -> None:
    comm: Any = sys.modules["comm"]

    class ChannelComm(comm.base_comm.BaseComm):  # type: ignore[misc]  # loaded by the user's code
        """A comm whose other end is in the notebook's kernel."""

        def publish_msg(self, msg_type: str, data: Any = None, *_metadata: Any, **_options: Any) -> None:
            """Send a widget's message."""
            _hand_on(self.comm_id, msg_type, data or {})

    comm.create_comm = ChannelComm


def _hand_on(comm_id: str, kind: str, data: dict[str, Any]) -> None:
    state = data.get("state") or {}
    if kind == "comm_close":
        _states.pop(comm_id, None)
    else:
        _states.setdefault(comm_id, {}).update(state)
    if _is_shown(comm_id) or kind == "comm_close":
        context.publish({"comm": {"id": comm_id, "kind": kind, "state": state}})


def _is_shown(comm_id: str) -> bool:
    state = _states.get(comm_id, {})
    return state.get("_model_name") in SHOWN and all(_is_shown(one) for one in _references(state))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield value[len(REFERENCE) :]
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _references(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _references(part)
