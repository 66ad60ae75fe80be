"""What all figures share: the theme, and one color for each method.

The palette is Wong's (2011), safe for color-blind readers. A panel WIDTH wide with letters of 11
points is legible on a phone of 390 pixels. Importing this sets seaborn's theme.
"""

import seaborn

from mdr_core.profiles import L2, MDR, TRIPLET

BLUE, ORANGE, GREEN, RED, PINK, SKY = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
)  # fmt: skip
INK, SOFT = "#1b1f26", "#5b6370"  # of text, as in the pages
COLORS = {  # of seaborn's ``palette=``
    "Pixels": "#9aa1ab",
    "Backbone features": SOFT,
    "Before fine-tuning": "#7b828d",
    TRIPLET: BLUE,
    L2: ORANGE,
    MDR: GREEN,
    "without MDR": BLUE,
    "with MDR": GREEN,
}
WIDTH = 4.2  # inches of a panel
THEME = {
    "figure.figsize": (WIDTH, 3.0),
    "figure.constrained_layout.use": True,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first comes with matplotlib
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.title_fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "grid.color": "#e4e7eb",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # the name of a class may hold $
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
}
seaborn.set_theme(style="whitegrid", palette=PALETTE, rc=THEME)
