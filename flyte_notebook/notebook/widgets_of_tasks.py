"""Widgets of the notebook that show the state of a task's widgets: one for each, of the same class and id.

They are widgets of ipywidgets: a page that is loaded again finds them, and they are saved with the notebook.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import ipywidgets

from flyte_notebook.cells.widgets_in_worker import MIME_TYPE, REFERENCE, RELIES, SHOWN
from flyte_notebook.core.reliance import losses, lost_by

KEPT = 300
"""How many widgets are kept; the oldest are closed for new ones."""

_from_json = ipywidgets.widget_serialization["from_json"]
_lock = threading.Lock()
_shown: OrderedDict[str, Any] = OrderedDict()


def take(message: dict[str, Any]) -> None:
    """Handle a message of a task's widget: its id, kind of message and state. Unshowable parts are skipped."""
    with _lock:
        try:
            _take(message["id"], message["kind"], message["state"])
        except Exception as error:  # noqa: BLE001 - a widget is not essential: the task goes on
            losses.put(RELIES.key, lost_by(RELIES, error))


def as_far_as_known(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the data of a task's display, without a widget that does not exist here: a page would show an error."""
    if message["widget"] in _shown:
        return message
    return {**message, "data": {kind: value for kind, value in message["data"].items() if kind != MIME_TYPE}}


def _take(identity: str, kind: str, state: dict[str, Any]) -> None:
    known = _shown.get(identity)
    if kind == "comm_open" and known is None and state.get("_model_name") in SHOWN:
        _shown[identity] = _made(identity, state)
        while len(_shown) > KEPT:
            _shown.popitem(last=False)[1].close()
    elif kind == "comm_close" and known is not None:
        del _shown[identity]
        known.close()
    elif known is not None:
        with known.hold_sync():
            for name, value in _traits(known, state).items():
                known.set_trait(name, value)


def _made(identity: str, state: dict[str, Any]) -> Any:
    kind = _classes()[state["_model_name"]]
    return kind(model_id=identity, **_traits(kind, state))


@functools.cache
def _classes() -> dict[str, Any]:
    """Return the classes of widgets by the name of their model; classes of styles are found by their widgets."""
    exported: list[Any] = [kind for kind in vars(ipywidgets.widgets).values() if isinstance(kind, type)]
    kinds = [kind for kind in exported if issubclass(kind, ipywidgets.Widget)]
    kinds += [trait.klass for kind in kinds if (trait := kind.class_traits().get("style")) is not None]
    traits = ((kind, kind.class_traits().get("_model_name")) for kind in kinds if not isinstance(kind, str))
    return {trait.default_value: kind for kind, trait in traits if trait is not None}


def _traits(kind: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return the values to set: traits that both sides have, with references replaced by widgets."""
    known = kind.class_trait_names(sync=True)
    given = {name: value for name, value in state.items() if name in known and not name.startswith("_")}
    made = {name: _from_json(value, None) for name, value in given.items() if value is not None}
    return {name: value for name, value in made.items() if not str(value).startswith(REFERENCE)}
