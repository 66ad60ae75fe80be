"""Figures of the reports: panels of one width, side by side or stacked on a phone."""

from mdr_core.report.plots.differences import BARS, differences, differences_by_number
from mdr_core.report.plots.distances import distances
from mdr_core.report.plots.lines import bands, curves, learning_curves
from mdr_core.report.plots.style import BLUE, GREEN, RED, WIDTH, label_ends, panel, svg

__all__ = [
    "BARS", "BLUE", "GREEN", "RED", "WIDTH", "bands", "curves", "differences",
    "differences_by_number", "distances", "label_ends", "learning_curves", "panel", "svg",
]  # fmt: skip
