"""What a notebook shows: its answer, its tables and its figures. Each is displayed at once."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mdr_core.errors import NothingStored
from mdr_core.profiles import Study, title
from mdr_core.runs import facts

ANSWER = "application/vnd.mdr.answer+json"  # the answer, and what it rests on


def show(data: dict[str, Any]) -> None:
    """Display data by their types; where no notebook runs, print the text."""
    display(data, raw=True) if get_ipython() else print(data["text/plain"])


def answer(
    study: Study,
    runs: pd.DataFrame,
    conclusions: Mapping[str, tuple[str, Mapping[str, str]]],
    verdicts: Mapping[str, str],
) -> None:
    """Show our conclusion of a profile's runs, or a line that says why it does not apply.

    ``conclusions``: profile -> sentences (Markdown), and the verdicts that they rest on, by name.
    ``verdicts``: those that the runs give. NothingStored: none of the runs is stored.
    """
    if not runs.stored.any():
        raise NothingStored("no run of this page is stored: train=True trains them")
    text, claimed = conclusions.get(study.name, ("", {}))
    now = {name: verdicts.get(name, "not run") for name in claimed}
    wrong = [f"{name} is now {now[name]}, not {v}" for name, v in claimed.items() if now[name] != v]
    if study.changed:
        text = "Run with other parameters: our conclusion does not apply."
    elif not text:
        text = "We draw no conclusion from this profile's runs."
    elif wrong:
        text = f"Our conclusion no longer fits these runs: {'; '.join(wrong)}."
    carried = {
        "parameters": {"profile": study.name} | {k: str(v) for k, v in study.changed.items()},
        "verdicts": dict(verdicts),
        "provenance": provenance(runs[runs.stored].drop_duplicates(["key", "epoch"])),
    }
    show({"text/markdown": text, "text/plain": text, ANSWER: carried})


def provenance(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (what, which) of the runs: data, network, length, seeds, hardware, code, libraries."""
    columns = ["device", "finished", "commit", "code", "versions"]
    made = pd.DataFrame([*rows.provenance], rows.index, columns).fillna("")
    settings = {
        "backbone": rows.backbone,
        "resolution": rows.crop.map("{} px".format),
        "steps": (rows.epochs * rows.iterations).map("{:,}".format),
        "images a step": rows.batch_size.map(str),
        "λ of MDR": rows.mdr_weight[rows.mdr_weight > 0].map("{:g}".format),
        "seeds": rows.seed.map(str),
        "device": rows.device.str.upper() + " " + made.device,
        "ended": made.finished.str[:10],
        "git commit": made.commit.str[:12],
        "code": made.code.str[:12],
        "libraries": made.versions.map(lambda v: ", ".join(f"{k} {n}" for k, n in v.items())),
        "hours in all": pd.Series(f"{rows.seconds.sum() / 3600:.1f}"),
    }
    told = []
    for dataset, copy in rows[["dataset", "data"]].drop_duplicates().to_numpy():
        about = facts.about(dataset, copy) or {"images": {}}
        words = [f"{count:,} images to {split}" for split, count in about["images"].items()]
        words += [about.get("copy", ""), f"fingerprint {copy[:12]}"]
        told.append((dataset, "; ".join(filter(None, words))))
    return told + [(what, "; ".join(sorted({*v} - {""}))) for what, v in settings.items()]


def table(frame: pd.DataFrame, caption: str, digits: int = 1) -> None:
    """Show a table: numbers with so many digits; its index is the names of the rows.

    Cells may be texts, numbers, or a mean or difference of :mod:`mdr_core.statistics`. A page
    offers it as CSV, with all digits.
    """
    flat = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    heads = [name if isinstance(name, tuple) else (name,) for name in flat]
    flat = flat.set_axis([", ".join(filter(None, map(str, head))) for head in heads], axis=1)
    if "dataset" in flat:
        flat["dataset"] = [*map(title, flat["dataset"])]
    names = flat.shape[1] - frame.shape[1]
    specs = ["g"] * names + [f"z.{digits}f"] * frame.shape[1]
    columns = zip(flat, specs, strict=True)
    shown = pd.DataFrame({name: [told(cell, f) for cell in flat[name]] for name, f in columns})
    text = shown.to_html(index=False, border=0).replace("\n", "").replace("  ", "")
    text = text.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1)
    lines = [[*shown], ["---"] * shown.shape[1], *shown.to_numpy()]
    plain = "\n".join(f"| {' | '.join(line)} |" for line in lines)  # Markdown, as for a README
    show({"text/html": text, "text/csv": csv(flat), "text/plain": plain})


def told(cell: Any, spec: str) -> str:
    """Return a cell's text, with a true minus; of what is missing none."""
    if cell is None or cell is pd.NA or cell != cell:
        return ""
    return format(cell, spec).replace("-", "−") if isinstance(cell, float) else str(cell)


def csv(frame: pd.DataFrame) -> str:
    """Return a table as CSV with all digits; a cell of several values has a column for each."""
    rows: list[dict] = []
    for row in frame.to_dict("records"):
        rows.append({})
        for name, cell in row.items():
            parts = cell._asdict() if hasattr(cell, "_asdict") else {"": cell}
            rows[-1] |= {f"{name}, {part}" if part else name: v for part, v in parts.items()}
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def figure(drawn: Figure | Sequence[Figure], caption: str, photographs: bool = False) -> None:
    """Show a figure, or panels side by side (stacked on a phone), each 4.2 inches wide.

    It is SVG, which a page offers as a file; one of ``photographs`` is a JPEG.
    """
    panels = ""
    for number, each in enumerate([drawn] if isinstance(drawn, Figure) else drawn):
        titles = [each.get_suptitle(), *(axis.get_title("left") for axis in each.axes), caption]
        about = html.escape(". ".join(dict.fromkeys(filter(None, titles))))
        image = jpeg(each, about) if photographs else svg(each, about, f"{caption}{number}")
        panels += f'<div class="panel" style="flex: 1 1 304px; max-width: 404px">{image}</div>'
        plt.close(each)
    text = f'<div class="panels" style="display: flex; flex-wrap: wrap; gap: .75rem">{panels}</div>'
    text = f"<figure>{text}<figcaption>{html.escape(caption)}</figcaption></figure>"
    show({"text/html": text, "text/plain": caption})


def svg(drawn: Figure, about: str, salt: str) -> str:
    """Return a figure as SVG, the same text for the same figure; several may stand in one page."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": salt}):
        drawn.savefig(text, format="svg", metadata={"Date": None})
    # matplotlib's style sheet would hold for the whole page, and names would be there twice
    left_out = r'^.*?(?=<svg)|<defs>\s*<style.*?</defs>|<metadata>.*?</metadata>| id="[\w.]+_\d+"'
    found = re.sub(left_out, "", text.getvalue(), flags=re.DOTALL)
    style = "stroke-linejoin: round; stroke-linecap: butt; width: 100%; height: auto"
    return found.replace("<svg", f'<svg role="img" aria-label="{about}" style="{style}"', 1)


def jpeg(drawn: Figure, about: str) -> str:
    data = io.BytesIO()
    drawn.savefig(data, format="jpeg", dpi=100, pil_kwargs={"quality": 80})
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{text}" alt="{about}" style="width: 100%">'
