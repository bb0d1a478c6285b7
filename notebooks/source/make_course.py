"""Makes the course from its sources: chapters, exercises and solutions, saved copies with outputs, and printed ones.

    python notebooks/source/make_course.py            the notebooks, without outputs
    python notebooks/source/make_course.py saved      also runs the chapters and the solutions: some two minutes
    python notebooks/source/make_course.py reset      the learner's notebooks again; changed ones are kept in mine/

A source is Markdown, as jupytext reads it (https://jupytext.readthedocs.io): each fence is a cell of code with an id.
A cell with the tag "starter" is in the exercises only, one with "solution" in the solutions only.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat

SOURCES = Path(__file__).resolve().parent
NOTEBOOKS = SOURCES.parent
SAVED = NOTEBOOKS / "saved"
PRINTED = NOTEBOOKS.parent / "build" / "course"
COPIES = {"exercises": "solution", "solutions": "starter"}
"""The folders that are made of the exercises: each with the tag whose cells it leaves out."""

CELL_BOUND_S = 120
PLACES = {
    sysconfig.get_path("purelib"): "site-packages",
    sysconfig.get_path("stdlib"): "lib",
    str(NOTEBOOKS): "notebooks",
    str(NOTEBOOKS.parent): ".",
    sys.base_prefix: "python",
    str(Path.home()): "~",
}
"""Directories of this machine, the longest first, and what saved copies have instead."""

if os.environ.get("FLYTE_ENDPOINT"):  # the last chapter runs there
    PLACES[os.environ["FLYTE_ENDPOINT"]] = "https://flyte.example.com"

_NARROW = re.compile(r'<img class="fnb-chart fnb-narrow"[^>]*>')
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def learner() -> dict[Path, Any]:
    """Return the notebooks that a learner has, by path: chapters, exercises, solutions."""
    made = {NOTEBOOKS / f"{path.stem}.ipynb": _notebook(path) for path in sorted(SOURCES.glob("*.md"))}
    for path in sorted((SOURCES / "exercises").glob("*.md")):
        for folder, without in COPIES.items():
            made[NOTEBOOKS / folder / f"{path.stem}.ipynb"] = _notebook(path, without)
    return made


def _notebook(path: Path, without: str | None = None) -> Any:
    """Return the notebook of a source, without the cells that have a tag."""
    read = jupytext.read(path, fmt="md")
    cells: list[Any] = []
    for cell in read.cells:
        tags = [tag for tag in cell.metadata.get("tags", ()) if tag not in COPIES.values()]
        if without in cell.metadata.get("tags", ()):
            continue
        cell.id = cell.metadata.pop("id", "")
        cell.metadata = {"tags": tags} if tags else {}
        cells.append(cell)
    following = "next"
    for cell in reversed(cells):  # a text without an id gets one from the code below it
        cell.id = cell.id or f"about-{following}"
        following = cell.id
    cells[0].id = "title"
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(notebook)
    return notebook


def written(notebook: Any) -> str:
    """Return a notebook as the text of its file."""
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def write(notebooks: dict[Path, Any]) -> None:
    """Write notebooks."""
    for path, notebook in notebooks.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(notebook), encoding="utf-8")


def run(path: Path, notebook: Any) -> Any:
    """Run a notebook in a kernel of its own and return it, with outputs that need no widget and no script."""
    from nbclient import NotebookClient  # noqa: PLC0415 - needed for this alone

    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--IPKernelApp.log_level=ERROR"]
    settings = {"timeout": CELL_BOUND_S, "resources": place, "kernel_name": "python3", "extra_arguments": quiet}
    NotebookClient(notebook, **settings).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            for output in cell.outputs:
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            cell.outputs = [_without_places(output) for output in cell.outputs if _shows(output)]
    notebook.metadata = METADATA
    return notebook


def _without_places(output: Any) -> Any:
    """Return an output without the directories of this machine, and with one picture of each chart."""
    if isinstance(output, list):
        return [_without_places(part) for part in output]
    if isinstance(output, dict):
        return nbformat.NotebookNode({key: _without_places(part) for key, part in output.items()})
    if not isinstance(output, str):
        return output
    for place, instead in PLACES.items():
        output = output.replace(place, instead)
    return _NARROW.sub("", output).replace("fnb-chart fnb-wide", "fnb-chart")


def _shows(output: Any) -> bool:
    """Whether there is anything to see without a widget: some lines are replaced by nothing when a run ends."""
    texts = output.get("data", {"text/plain": "a stream or an error"}).values()
    return any(str(text).strip() not in {"", "<span></span>"} for text in texts)


def save(only: list[str]) -> None:
    """Run the chapters and the solutions; save the chapters with their outputs, and print both as HTML."""
    from nbconvert import HTMLExporter  # noqa: PLC0415 - needed for this alone

    for path, notebook in learner().items():
        if path.parent.name == "exercises" or (only and path.stem not in only):
            continue
        began_s = time.monotonic()
        ran = run(path, notebook)
        print(f"{path.relative_to(NOTEBOOKS)}: {time.monotonic() - began_s:.0f} s", flush=True)
        if path.parent == NOTEBOOKS:
            write({SAVED / path.name: ran})
        page, _ = HTMLExporter(template_name="classic").from_notebook_node(ran)
        printed = PRINTED / path.relative_to(NOTEBOOKS).with_suffix(".html")
        printed.parent.mkdir(parents=True, exist_ok=True)
        printed.write_text(page, encoding="utf-8")


def reset() -> None:
    """Write the learner's notebooks again; those that were changed are moved to ``mine/``, with the time."""
    mine = NOTEBOOKS / "mine" / time.strftime("%Y-%m-%d_%H.%M.%S")
    for path, notebook in learner().items():
        if path.exists() and path.read_text(encoding="utf-8") != written(notebook):
            kept = mine / path.relative_to(NOTEBOOKS)
            kept.parent.mkdir(parents=True, exist_ok=True)
            path.replace(kept)
            print(f"{path.relative_to(NOTEBOOKS)} was changed; your copy is {kept.relative_to(NOTEBOOKS)}")
    write(learner())


if __name__ == "__main__":
    asked = sys.argv[1:]
    if asked[:1] == ["reset"]:
        reset()
    else:
        write(learner())
        if asked[:1] == ["saved"]:
            save(asked[1:])
