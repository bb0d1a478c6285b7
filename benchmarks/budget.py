"""What a benchmark reports: measures beside their bars, as a Markdown table and a picture in ``build/bench``.

The first column of a table is what the bars are for; the others stand beside it, from the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from matplotlib.figure import Figure

OUT = Path("build", "bench")
MISSED = "(missed)"

Column: TypeAlias = Mapping[str, float | str]
"""Measures by the key of their row; words where there is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure and its bar, ``None`` where there is none; ``higher`` when more is better.

    ``why`` is said where the bar is missed: what is known of the reason.
    """

    name: str
    unit: str
    bar: float | None = None
    higher: bool = False
    why: str = ""

    @property
    def bar_words(self) -> str:
        """The bar with its direction."""
        return "-" if self.bar is None else f"{'>=' if self.higher else '<='} {_with_unit(self.bar, self.unit)}"

    def verdict(self, value: float | str | None) -> str:
        """Return whether a value meets the bar; ``-`` without a bar or a number."""
        if self.bar is None or not isinstance(value, (int, float)):
            return "-"
        met = value >= self.bar if self.higher else value <= self.bar
        return "met" if met else MISSED


def options(doc: str | None, broken: str) -> argparse.Namespace:
    """Return ``quick`` and ``broken`` from the command line; ``broken`` says what goes wrong on purpose."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, to see that it works")
    parser.add_argument("--break", dest="broken", action="store_true", help=broken)
    return parser.parse_args()


def report(name: str, rows: Mapping[str, Row], columns: Mapping[str, Column], notes: tuple[str, ...] = ()) -> None:
    """Print the table, and write it and its picture as ``build/bench/NAME.md`` and ``NAME.png``."""
    first = next(iter(columns.values()))
    missed = [
        f"missed: {row.name}: {row.why}"
        for key, row in rows.items()
        if row.why and row.verdict(first.get(key)) == MISSED
    ]
    said = [f"- {note}" for note in (*notes, *missed)]
    text = "\n".join([*_table(rows, columns), *(["", *said] if said else [])])
    print(text, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    _draw(rows, columns, OUT / f"{name}.png")


def _table(rows: Mapping[str, Row], columns: Mapping[str, Column]) -> list[str]:
    heads = ["what", "bar", *columns, "met"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key, row in rows.items():
        values = [column.get(key) for column in columns.values()]
        cells = [row.name, row.bar_words, *(_cell(value, row.unit) for value in values), row.verdict(values[0])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: float | str | None, unit: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else _with_unit(value, unit)


def _with_unit(value: float, unit: str) -> str:
    # Four digits for counts such as 1,987 points; three are what a measurement is worth.
    words = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - see above
    return f"{words} {unit}".strip()


def _draw(rows: Mapping[str, Row], columns: Mapping[str, Column], path: Path) -> None:
    """Draw each row that has numbers in a panel of its own, because units differ; a black line is its bar."""
    shown = [key for key in rows if any(isinstance(column.get(key), (int, float)) for column in columns.values())]
    names = list(columns)
    figure = Figure(figsize=(9, 0.6 + len(shown) * (0.75 + 0.18 * len(names))), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, key in zip(panels, shown, strict=True):
        row = rows[key]
        values = [columns[name].get(key) for name in names]
        numbers = [value if isinstance(value, (int, float)) else 0.0 for value in values]
        axes.barh(range(len(names)), numbers, color=["C0", *["C7"] * (len(names) - 1)])
        for place, value in enumerate(values):
            axes.annotate(
                _cell(value, row.unit), (numbers[place], place), (3, 0), textcoords="offset points", va="center", size=7
            )
        if row.bar is not None:
            axes.axvline(row.bar, color="black")
        axes.set_title(f"{row.name}: {row.bar_words}" if row.bar is not None else row.name, size=9, loc="left")
        axes.set_yticks(range(len(names)), names, size=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.margins(x=0.15)
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
