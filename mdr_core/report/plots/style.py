"""What all figures share: colors, the size of a panel, names beside lines, titles on hover, files.

The palette is Wong's (2011), which is safe for color-blind readers. A method has one color in all
figures. A panel of WIDTH with letters of 11 points is legible on a phone of 390 pixels.
"""

import io
import itertools
import re
from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from mdr_core.study.profiles import BEFORE

BLUE, ORANGE, GREEN, RED, PINK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#999999",
)  # fmt: skip
INK, SOFT = "#1b1f26", "#5b6370"  # of text, as in the pages
COLORS = {
    BEFORE: GREY,
    "Triplet": BLUE,
    "Triplet + L2": ORANGE,
    "Triplet + MDR": GREEN,
    "without MDR": BLUE,
    "with MDR": GREEN,
}
WIDTH = 4.2  # inches of a panel
plt.rcParams.update(
    {
        "font.size": 11,
        "axes.titlesize": "medium",
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": "medium",
        "xtick.labelsize": "medium",
        "ytick.labelsize": "medium",
        "legend.fontsize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "text.parse_math": False,  # the name of a class may hold $
        "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    }
)


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return color by name, in the order of COLORS; other names get some in turn."""
    names = sorted(names, key=lambda name: [*COLORS, name].index(name))
    others = itertools.cycle((BLUE, GREEN, ORANGE, RED, PINK))
    return {name: COLORS.get(name) or next(others) for name in names}


def panel(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a new figure with one axis; sizes in inches."""
    return plt.subplots(figsize=(width, height))


def darker(color: str) -> tuple[float, ...]:
    """Return a color dark enough for text on white."""
    return tuple(0.68 * part for part in to_rgb(color))


def label_ends(axis: Axes, ends: Iterable[tuple[str, float, float, str]]) -> None:
    """Write names right of the points where lines end, moved up or down where they would collide.

    Args:
        ends: (name, x, y, color) of each line. Limits and scales of the axis must be final.
    """
    ends = sorted(ends, key=lambda end: end[2])
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axis
    points = 72 / figure.dpi
    places = np.array([axis.transData.transform(end[1:3])[1] * points for end in ends])
    steps = 1.15 * plt.rcParams["font.size"] * np.arange(len(ends))
    low, high = axis.bbox.y0 * points, axis.bbox.y1 * points
    moved = isotonic_regression(np.clip(places - steps, low, max(low, high - steps[-1]))).x + steps
    for (name, x, y, color), up in zip(ends, moved - places, strict=True):
        line = {"arrowstyle": "-", "color": color, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
        at: dict[str, Any] = {"textcoords": "offset points", "va": "center", "arrowprops": line}
        axis.annotate(name, (x, y), (12, up), color=darker(color), **at)


def titled(artist: Artist, title: str) -> None:
    """Give an artist a title, which :func:`svg` writes and a browser shows on hover."""
    artist.set_gid(f"title:{title}")


def svg(figure: Figure, name: str) -> str:
    """Return the figure as SVG, the same text for the same figure."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    # a link opens in its own page; the title is escaped as an attribute, which is right for text
    plain = text.getvalue().replace(' target="_blank"', "")
    named = re.sub(r"<g id=([\"'])title:(.*?)\1>", r"<g><title>\2</title>", plain)
    return re.sub(r'<g id="[a-z0-9]+_\d+">', "<g>", named)  # several may stand in one page
