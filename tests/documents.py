"""Notebooks as files, by Jupyter's own libraries, which take more than a second to import: only who uses them does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def made(sources: Sequence[str], **metadata: object) -> Any:
    """Return a notebook with these cells of code."""
    import nbformat  # noqa: PLC0415

    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def written(notebook: Any, path: Path) -> None:
    """Write a notebook to a file."""
    import nbformat  # noqa: PLC0415

    nbformat.write(notebook, path)


def read(path: Path) -> Any:
    """Return the notebook of a file. Fails when it is not a valid one."""
    import nbformat  # noqa: PLC0415

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(notebook: Any, **settings: Any) -> None:
    """Run all cells in a kernel of their own, as papermill and nbconvert do.

    In a thread of its own: there is one event loop for each thread that talks to kernels, and it is to be closed.
    """
    from jupyter_core.utils import ensure_event_loop  # noqa: PLC0415
    from nbclient import NotebookClient  # noqa: PLC0415

    def run() -> None:
        try:
            NotebookClient(notebook, kernel_name="python3", **settings).execute()
        finally:
            ensure_event_loop().close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(run).result()


def page_of(notebook: Any) -> str:
    """Return a notebook as a page of HTML."""
    from nbconvert import HTMLExporter  # noqa: PLC0415

    page, _ = HTMLExporter().from_notebook_node(notebook)
    return str(page)
