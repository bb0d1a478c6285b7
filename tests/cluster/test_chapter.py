"""The course's chapter about clusters: on the plane and without a cluster, its cells end the same way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import documents
import pytest
from cluster_kernel import IMAGE

if TYPE_CHECKING:
    from loopback.handle import Plane

pytestmark = [pytest.mark.jupyter, pytest.mark.linux, pytest.mark.slow]

CHAPTER = Path(__file__).resolve().parent.parent.parent / "notebooks" / "09_from_notebook_to_cluster.ipynb"
CARD = "application/vnd.flyte-notebook.failure+json"
CELL_BOUND_S = 60
FAILING = {"oom": ("OOMError", "user", "OOMKilled"), "attempts": ("RuntimeUserError", "user", "KeyError")}


def _outputs() -> dict[str, list[Any]]:
    notebook = documents.read(CHAPTER)
    documents.execute(notebook, timeout=CELL_BOUND_S, resources={"metadata": {"path": str(CHAPTER.parent)}})
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def _text(outputs: list[Any]) -> str:
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def _ends_as_it_says(outputs: dict[str, list[Any]]) -> None:
    assert set(FAILING) == {name for name, those in outputs.items() if any(one.output_type == "error" for one in those)}
    for name, expected in FAILING.items():
        (failure,) = (one.data[CARD] for one in outputs[name] if CARD in one.get("data", {}))
        assert expected == (failure["error"], failure["kind"], failure["code"])
    assert "50000000" in _text(outputs["more"])
    streamed = [one.text for one in outputs["attempts"] if one.get("name") == "stdout"]
    assert "looking for the price\n" * 2 == "".join(streamed)
    assert _text(outputs["tree"]).count("OOMError") >= 1
    assert "ActionAbortedError" in _text(outputs["stopped"])


def test_it_runs_on_the_configured_cluster(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell and the run of the SDK are the cluster's; the abort arrives there."""
    monkeypatch.setenv("FLYTE_ENDPOINT", plane.endpoint)
    monkeypatch.setenv("FLYTE_IMAGE", IMAGE)
    with plane.seen() as calls:
        outputs = _outputs()
    _ends_as_it_says(outputs)
    assert "14.28 - on the cluster\n" == _text(outputs["where"])
    assert any(call.endswith("AbortRun") for call in calls)


def test_it_runs_to_its_end_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without one sees the same ends here."""
    monkeypatch.delenv("FLYTE_ENDPOINT", raising=False)
    outputs = _outputs()
    _ends_as_it_says(outputs)
    assert "14.28 - here\n" == _text(outputs["where"])
