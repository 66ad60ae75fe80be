"""What all figures share: the theme, set by importing this, and one color for each method."""

import seaborn

from mdr_core.profiles import METHODS

# Wong (2011), safe for color-blind readers
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
INK, SOFT = "#1b1f26", "#5b6370"  # of text, as in the pages
FLOORS = {"Pixels": "#9aa1ab", "Backbone features": SOFT, "Before fine-tuning": "#7b828d"}
COLORS = FLOORS | dict(zip(METHODS, PALETTE, strict=False))  # of seaborn's ``palette=``
WIDTH = 4.2  # inches of a panel: with letters of 11 points it is legible on a phone
THEME = {
    "figure.figsize": (WIDTH, 3.0),
    "figure.constrained_layout.use": True,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first comes with matplotlib
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": "#e4e7eb",
    "text.parse_math": False,  # the name of a class may hold $
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
} | dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
THEME |= {f"{each}size": 11 for each in (
    "font.", "axes.title", "axes.label", "xtick.label", "ytick.label", "legend.font",
    "legend.title_font",
)}  # fmt: skip
seaborn.set_theme(style="whitegrid", palette=PALETTE, rc=THEME)
