"""The basis of every picture: colours and letters, axes with readable numbers, and the conversion to an SVG document.

Only this module uses matplotlib, which is loaded by the first call and never by an import. Drawn on a white, opaque
ground in colours that keep their contrast when a page in a dark theme inverts the picture and turns its hues back
(``filter: invert(1) hue-rotate(180deg)``). Lengths are in points; letters are large enough that a picture of `WIDTH`
can still be read at 400 pixels, and one of `NARROW` at 240.
"""

from __future__ import annotations

import math
import threading
import warnings
from base64 import b64encode
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes as Axes  # noqa: PLC0414 - for the rooms that draw
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure as Figure  # noqa: PLC0414 - as above

    from flyte_notebook.views.charts.placing import Box

TICKS: Final = 5
"""The maximum number of ticks above zero on an axis."""

_MEMORY_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TIME_UNITS: Final = ((7_200, 3_600, "hours"), (120, 60, "minutes"), (0.1, 1, "seconds"), (0, 0.001, "milliseconds"))
_ENOUGH: Final = 1.5  # of a unit; below it the next smaller unit is easier to read


class Scale(NamedTuple):
    """One axis from zero: the size of its unit in bytes or seconds, its name, its end and its ticks in units."""

    size: float
    unit: str
    end: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """Return the position of a value in bytes or seconds, as a part of the axis."""
        return value / self.size / self.end


def memory_scale(end_bytes: float) -> Scale:
    """Return an axis that ends at that many bytes."""
    size, unit = 1.0, _MEMORY_UNITS[0]
    for larger in _MEMORY_UNITS[1:]:
        if end_bytes < _ENOUGH * size * 1024:
            break
        size, unit = size * 1024, larger
    return _scale(end_bytes, size, unit)


def time_scale(end_s: float) -> Scale:
    """Return an axis that ends at that many seconds; without ticks if no time passed."""
    size, unit = next((size, unit) for least, size, unit in _TIME_UNITS if end_s >= least)
    return _scale(end_s, size, unit)


def _scale(end: float, size: float, unit: str) -> Scale:
    if end <= 0:
        return Scale(size=size, unit=unit, end=1.0, ticks=())
    in_units = end / size
    magnitude = 10 ** math.floor(math.log10(in_units / TICKS))
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= in_units / TICKS * 0.999)
    ticks = tuple(round(number * step, 12) for number in range(int(in_units / step) + 1))
    return Scale(size=size, unit=unit, end=in_units, ticks=ticks)


WIDTH: Final = 500.0
NARROW: Final = 300.0
SIZE: Final = 11.5
"""The size of letters."""

TEXT, SOFT, GRID = "#1f2328", "#59636e", "#e3e7eb"
LATEST, BAD = "#1d5aa6", "#c62828"

_drawing = threading.RLock()
_SETTINGS: Final = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, which measures with it; a page uses its own font
    "font.size": SIZE,
    "svg.fonttype": "none",
    "svg.hashsalt": "flyte_notebook",  # so that the same picture has the same bytes
}
_NOT_LOOKS: Final = ("backend", "interactive", "toolbar", "timezone", "date.", "docstring", "webagg", "tk.", "keymap")


def figure_of(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of a size in points."""
    return _figure_class()(figsize=(width / 72, height / 72), facecolor="white")


@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - loaded when the first picture is drawn
    from matplotlib.text import Text  # noqa: PLC0415 - as above

    class ShownFigure(Figure):
        """A figure that a notebook can show even if pyplot was never imported."""

        def _repr_svg_(self) -> str:
            with our_looks(*(text.get_text() for text in self.findobj(Text))):
                return svg_of(self, "").decode()

    return ShownFigure


def data_uri(svg: bytes) -> str:
    """Return an SVG document as a data address for an ``img`` element, which needs no server."""
    return "data:image/svg+xml;base64," + b64encode(svg).decode("ascii")


def svg_of(figure: Figure, words: str) -> bytes:
    """Return a figure as an SVG document whose title are these words."""
    document = BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(document, format="svg", metadata=nothing | ({"Title": words} if words else {}))
    return document.getvalue()


@contextmanager
def our_looks(*texts: str) -> Iterator[None]:
    """Draw with matplotlib's defaults and `_SETTINGS`, not the user's settings; then reset only the changed settings.

    The settings are global: a thread that draws at the same moment uses ours.
    """
    import matplotlib as mpl  # noqa: PLC0415 - loaded when the first picture is drawn

    with _drawing, warnings.catch_warnings() if not "".join(texts).isascii() else nullcontext():
        if not "".join(texts).isascii():  # a letter that the measuring font lacks is shown in the page's own font
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        theirs = dict(mpl.rcParams.copy())
        ours = {name: value for name, value in dict(mpl.rcParamsDefault.copy()).items() if _is_look(name)} | _SETTINGS
        changed = {name: theirs[name] for name, value in ours.items() if name in theirs and theirs[name] != value}
        try:
            mpl.rcParams.update({name: ours[name] for name in changed})
            yield
        finally:
            mpl.rcParams.update(changed)


def _is_look(name: str) -> bool:
    return not name.startswith(_NOT_LOOKS)


def axes_in(figure: Figure, place: Box) -> Axes:
    """Return axes with a left and a lower edge, at a place in points."""
    width, height = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    size = (place.right - place.left) / width, (place.top - place.bottom) / height
    axes = figure.add_axes((place.left / width, place.bottom / height, *size))
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    return axes


def put_text(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:  # noqa: ANN401 - matplotlib's own settings
    """Write a text at a place in points; ``how`` as `Axes.text` takes it."""
    axes.text(x, y, text, **{"color": TEXT, "va": "center", "clip_on": False, "parse_math": False, **how})


def put_ticks(axis: XAxis | YAxis, scale: Scale, length: float) -> None:
    """Give an axis the ticks of a scale."""
    axis.set_ticks([scale.part(tick * scale.size) * length for tick in scale.ticks], [f"{t:g}" for t in scale.ticks])
    axis.set_tick_params(length=3, pad=3, color=SOFT, labelcolor=SOFT, labelsize=SIZE - 0.5)


def say_only(figure: Figure, words: str) -> Figure:
    """Return a figure that has only text."""
    figure.text(0.5, 0.5, words, color=SOFT, ha="center", va="center", parse_math=False)
    return figure
