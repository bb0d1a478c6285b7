"""Writes the measured numbers of README.md: runs its cells in a real kernel. ``make numbers`` runs this."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels import Kernel

README = Path(__file__).parent.parent / "README.md"

PLACES = {
    "suggested_mi": r"form to\s+run it again with (\d+)Mi",
    "kept_mi": r'`resources=flyte\.Resources\(memory="(\d+)Mi"\)`, with its margin',
    "base_mib": r"`memory = (\d+) MiB \+ \d+ MiB × x`",
    "each_mib": r"`memory = \d+ MiB \+ (\d+) MiB × x`",
}
"""The numbers, each with its place in the text."""

RANGE, LARGEST = "128Mi:1Gi:8", "1Gi"
"""The limits of the sweep; the largest one is enough for its line."""

FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def cells(text: str) -> list[str]:
    """Return the code blocks of a document."""
    return FENCE.findall(text)


def written(text: str) -> dict[str, int]:
    """Return the numbers that a text has. Raises LookupError for one that it has not."""
    found = {name: re.search(pattern, text) for name, pattern in PLACES.items()}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise LookupError(f"README.md has no place for {', '.join(missing)}")
    return {name: int(match[1]) for name, match in found.items() if match is not None}


def measured(kernel: Kernel) -> dict[str, int]:
    """Run the cells of README.md, the sweep at one limit, and return the numbers."""
    blocks = cells(README.read_text(encoding="utf-8"))
    first, cell = blocks[0], blocks[1]
    body = cell.partition("\n")[2]
    fit, sweep = (next(block for block in blocks if word in block).strip() for word in ("--memory fit", "--sweep"))
    kernel.run(first).ok()
    kernel.run(cell)
    suggested = kernel.value("fn.last_failure.suggestions[0].limits.memory_bytes")
    fitted = kernel.run(f"{fit}\n{body}").ok()
    kept = re.search(r'memory="(\d+)Mi"', fitted.shown_text)
    kernel.run(f"{sweep.replace(RANGE, LARGEST)}\n{body}").ok()
    base, each = kernel.value("(_.trend.at(0), _.trend.at(1) - _.trend.at(0))")
    return {
        "suggested_mi": suggested >> 20,
        "kept_mi": 0 if kept is None else int(kept[1]),
        "base_mib": round(base / 2**20),
        "each_mib": round(each / 2**20),
    }


def with_numbers(text: str, numbers: dict[str, int]) -> str:
    """Return a text with these numbers in their places."""
    for name, number in numbers.items():
        found = re.search(PLACES[name], text)
        if found is not None:
            text = f"{text[: found.start(1)]}{number}{text[found.end(1) :]}"
    return text


def main() -> None:
    """Measure, and write."""
    sys.path.insert(0, str(Path(__file__).parent / "notebook"))
    from kernels import started  # noqa: PLC0415 - beside other tests

    with started() as kernel:
        kernel.run("import flyte_notebook as fn").ok()
        numbers = measured(kernel)
    README.write_text(with_numbers(README.read_text(encoding="utf-8"), numbers), encoding="utf-8")
    sys.stdout.write(f"{numbers}\n")


if __name__ == "__main__":
    main()
