"""A notebook run under other parameters: what it changed, and several side by side.

    python -m mdr_core compare one.ipynb other.ipynb      # executed notebooks, a row each

An executed notebook carries its parameters and numbers as JSON, in the display of its finding.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.files import write
from mdr_core.report import tables
from mdr_core.report.frames import labeled, with_counts
from mdr_core.runs.local import Record
from mdr_core.study import claims, statistics
from mdr_core.study.claims import Claim
from mdr_core.study.profiles import L2, MDR
from mdr_core.study.statistics import RECALL

CARRIED = "application/vnd.mdr.rerun+json"
# parameters that change no page
MACHINE = ("profile", "save_root")
RERUN, OWN, DEFAULT = "this rerun", "the profile", "the profile's own"
SETTINGS = tuple(name for name in Config.model_fields if name != "dataset")  # of a run
KINDS = ("mean", "half", "n", "low", "high")  # of a number, with its interval over test classes


def changes(grid: list[dict], given: dict) -> list[dict[str, str]]:
    """Return what differs from the profile: ``parameter``, the profile's value, this rerun's.

    Settings of a run are compared as the runs have them, other parameters with their defaults.
    """
    found = []
    for name in SETTINGS:
        rows = [row for row in grid if getattr(row["own"], name) != getattr(row["config"], name)]
        if rows:
            own = by_dataset([row["own"] for row in rows], name)
            now = by_dataset([row["config"] for row in rows], name)
            found.append({"parameter": name, OWN: own, RERUN: now})
    for name, default in given.get("defaults", {}).items():
        if name not in (*MACHINE, *SETTINGS, "train", "index_root") and given[name] != default:
            own = DEFAULT if default in ([], "", -1) else text(default)
            found.append({"parameter": name, OWN: own, RERUN: text(given[name])})
    return found


def by_dataset(configs: list[Config], name: str) -> str:
    """Return a setting as text: ``0.2``, or ``0.6 (cub200), 0.2 (cars196)``."""
    found = dict.fromkeys((text(getattr(config, name)), config.dataset) for config in configs)
    values = dict.fromkeys(value for value, _ in found)
    each = values if len(values) == 1 else [f"{value} ({dataset})" for value, dataset in found]
    return ", ".join(each)


def text(value: object) -> str:
    """Return a parameter's value as a reader writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def experiment(row: dict, without: str = "") -> str:
    """Return the name of a grid's row, its dataset and labels: ``cub50, Triplet + MDR``."""
    rest = {k: v for k, v in row.items() if k not in ("seed", "config", "own", without)}
    return ", ".join(map(str, ({"dataset": row["config"].dataset} | rest).values()))


def results(grid: list[dict], records: Sequence[Record | None]) -> dict[str, dict[str, Any]]:
    """Return Recall@1 after the last epoch of each experiment, and MDR − L2 of each setting.

    Each has ``mean``, ``half``, ``n`` and ``text``; a difference also the ends of its interval over
    the test classes, ``low`` and ``high``. What there is not is None.

    Args:
        grid, records: rows of :mod:`mdr_core.study.experiments`, and what was run.
    """
    found: dict[str, dict[str, Any]] = {}
    if not grid:
        return found
    labels = [
        {
            "experiment": experiment(row),
            "setting": experiment(row, without="method"),
            "method": row["method"],
            "config": row["config"],
        }
        for row in grid
    ]
    last = statistics.final(with_counts(labeled(labels, records), records))
    for name, runs in last.groupby("experiment", sort=False):
        recall = tables.interval(runs[RECALL])
        found[str(name)] = vars(recall) | {"text": str(recall)}
    pairs = last[last.method.isin([MDR, L2])]
    claim = Claim("", "", "", "", MDR, L2, by="setting", counts="test_class_right")
    for cell in claims.evaluate(claim, pairs).cells if len(pairs) else ():
        low, high = (cell.classes.low, cell.classes.high) if cell.classes else (None, None)
        ends = {"low": low, "high": high, "text": cell.text()}
        found[f"{cell.name}: MDR − L2"] = cell.seeds | ends
    return {
        name: {k: None if v != v else v for k, v in values.items()}  # JSON has no NaN
        for name, values in found.items()
    }


def carried(path: Path) -> dict[str, Any]:
    """Return what an executed notebook of the study carries, and its ``title``.

    Raises:
        StudyError: it cannot be read, or has no results.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        data = [output["data"][CARRIED] for output in outputs if CARRIED in output.get("data", {})]
        return data[0] | {"title": "".join(cells[0]["source"]).splitlines()[0]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise StudyError(
            f"{path} is no executed notebook of this study: "
            f"run papermill notebooks/recall_at_k.ipynb {path}"
        ) from None


def compare(paths: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return executed notebooks side by side, a row each: as text, and with numbers as numbers.

    A parameter that one changes has a column; where another does not, the profile's value is shown.
    """
    found = {str(path): carried(path) for path in paths}
    own = {
        (each["title"], each["profile"], change["parameter"]): change[OWN]
        for each in found.values()
        for change in each["changes"]
    }
    words, numbers = [], []
    for path, each in found.items():
        changed = {change["parameter"]: change[RERUN] for change in each["changes"]}
        about = {"notebook": path, "profile": each["profile"]}
        for name in dict.fromkeys(name for _, _, name in own):
            standard = own.get((each["title"], each["profile"], name), DEFAULT)
            about[name] = changed.get(name, standard)
        words.append(about | {name: values["text"] for name, values in each["results"].items()})
        numbers.append(dict(about))
        for name, values in each["results"].items():
            numbers[-1] |= {f"{name}, {kind}": values[kind] for kind in KINDS if kind in values}
    return pd.DataFrame(words).fillna(""), pd.DataFrame(numbers)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core compare", description="Executed notebooks, a row each."
    )
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="FILE.ipynb")
    parser.add_argument("--output", type=Path, help="a CSV file for the numbers")
    given = parser.parse_args(argv)
    words, numbers = compare(given.notebooks)
    print(words.to_string(index=False, line_width=shutil.get_terminal_size((200, 24)).columns))
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write(given.output, numbers.to_csv(index=False, lineterminator="\n"))
    return 0
