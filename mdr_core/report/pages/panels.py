"""Figures as HTML: panels, side by side on a wide page, stacked on a phone."""

import base64
import html
import io
import re
import time
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure
from matplotlib.text import Text

from mdr_core.report import plots
from mdr_core.report.pages.html_table import escaped, label

SMALLEST = 11  # pixels of a letter on a phone
WIDEST = 900  # pixels that photographs, which have few letters, need at most
SCREEN, PRINT = 100, 120  # dots per inch of a figure of photographs, in a page and as a file


def drawing_of(figure: Figure, name: str, about: str, path: Path | None) -> str:
    """Return the figure as SVG for a page, where titles show on hover; write it to ``path``."""
    text = plots.svg(figure, name)
    if path:
        path.write_text(text, encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # matplotlib's style sheet would hold for the whole page
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    style = "stroke-linejoin: round; stroke-linecap: butt; width: 100%; height: auto"
    role = "group" if "<a " in text else "img"  # links in an img are not read aloud
    about = f'role="{role}" aria-label="{about}" style="{style}"'
    return text.replace("<svg", f"<svg {about}", 1)


def photographs_of(figure: Figure, about: str, path: Path | None) -> str:
    """Return the figure as JPEG; ``path`` gets it as PDF, at a higher resolution."""
    if path:
        began = time.gmtime(0)  # the same file for the same figure
        printed = PIL.Image.open(io.BytesIO(jpeg(figure, PRINT)))
        printed.save(path, resolution=PRINT, creationDate=began, modDate=began)
    data = base64.b64encode(jpeg(figure, SCREEN)).decode()
    about = f'alt="{about}" style="width: 100%; height: auto"'
    return f'<img src="data:image/jpeg;base64,{data}" {about}>'


def jpeg(figure: Figure, dpi: int) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="jpeg", dpi=dpi, pil_kwargs={"quality": 80})
    return data.getvalue()


def panel(figure: Figure, name: str, caption: str, path: Path | None, photographs: bool) -> str:
    """Return a figure at most in its own size, and so large that its letters can be read."""
    titles = [axis.get_title() or axis.get_title("left") for axis in figure.axes]
    said = f"{'; '.join(dict.fromkeys(filter(None, titles)))}. {caption}".removeprefix(". ")
    about = html.escape(said)  # for readers who hear the page
    width = figure.get_figwidth()
    letters = [float(t.get_fontsize()) for t in figure.findobj(Text) if t.get_text().strip()]
    least = 72 * width * SMALLEST / min(letters, default=10)
    if photographs:
        least, image = min(least, WIDEST), photographs_of(figure, about, path)
    else:
        image = drawing_of(figure, name, about, path)
    size = f"min-width: {least:.0f}px; max-width: {96 * width:.0f}px"
    return f'<div class="panel" style="flex: 1 1 0; {size}">{image}</div>'


def of(panels: list[str], caption: str) -> str:
    """Return a figure of panels with its caption."""
    row = "display: flex; flex-wrap: wrap; gap: .75rem"
    return (
        f'<figure class="figure" style="margin: 0"><div class="scroll" tabindex="0" role="group" '
        f'aria-label="{label(caption)}"><div class="panels" style="{row}">\n'
        + "\n".join(panels)
        + f'</div></div><figcaption style="text-align: left">{escaped(caption)}</figcaption>'
        "</figure>"
    )
