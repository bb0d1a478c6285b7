"""Writes `docs/relied-on.md`: every entry of what is relied on, as a table."""

from __future__ import annotations

from pathlib import Path

from flyte_notebook.notebook import relies as of_notebook
from flyte_notebook.sdk import relies as of_sdk
from flyte_notebook.sdk.cluster import relies as of_clusters
from flyte_notebook.worker import relies as of_workers

ENTRIES = (*of_workers.ENTRIES, *of_sdk.ENTRIES, *of_clusters.ENTRIES, *of_notebook.BY_KEY.values())

HEAD = """# What is relied on of others

Other libraries do not promise what stands here, and a new release may change it. Each row is tried out by a probe, when
a session starts or when a feature is used first. What is lost then stands in the line of `%load_ext` or below the next
cell, and in `%flyte doctor`. Where the last column says *refused*, nothing is run: limits would not hold, or results
would be wrong.

| library | relied on | lost without it | tried out |
|---|---|---|---|
"""

TRIED = {
    "kernel": "when the extension is loaded",
    "worker": "in a worker, when a session starts",
    "first use": "when it is used first",
}


def text() -> str:
    """Return the page."""
    rows = [
        f"| {entry.library} | {entry.behaviour.replace('|', chr(92) + '|')} | {entry.lost} "
        f"| {TRIED[entry.where]}{'; *refused*' if entry.refuse else ''} |"
        for entry in sorted(ENTRIES, key=lambda entry: entry.library.lower())
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "relied-on.md").write_text(text(), encoding="utf-8")
