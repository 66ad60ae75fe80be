"""A notebook run under other parameters: what it changed, beside the profile's own stored runs.

    python -m mdr_core compare one.ipynb other.ipynb      # executed notebooks, a row each

An executed notebook carries its parameters and numbers as JSON, in the display of its finding.
"""

import argparse
import dataclasses
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
from mdr_core.study import claims, profiles, statistics
from mdr_core.study.claims import Cell, Claim
from mdr_core.study.profiles import L2, MDR
from mdr_core.study.statistics import NOT_RUN, NOT_SIGNIFICANT, ONE_SEED, RECALL
from mdr_core.study.train import by_loop

CARRIED = "application/vnd.mdr.rerun+json"
# parameters that change no page
MACHINE = ("profile", "save_root")
RERUN, OWN, DEFAULT = "this rerun", "the profile", "the profile's own"
SETTINGS = tuple(f.name for f in dataclasses.fields(Config) if f.name != "dataset")  # of a run
COUNTS = "test_class_right"
KINDS = ("mean", "half", "n", "low", "high")  # of a number, with its interval over test classes
BESIDE = (
    "Recall@1 in % after the last epoch beside the profile's stored runs: mean ± 95 % interval "
    "over the seeds. Difference: this rerun − the profile in points, paired over the n seeds that "
    "both have, and its 95 % interval over the test classes."
)


def of(
    grid: list[dict], records: Sequence[Record | None], given: dict
) -> tuple[dict, dict[str, tuple[pd.DataFrame, str]]]:
    """Return what a notebook carries for :func:`compare`, and tables with captions by name.

    There are tables where a parameter differs from the profile's own.

    Args:
        grid, records: rows of :mod:`mdr_core.study.experiments`, and what was run.
        given: the notebook's parameters, and under ``defaults`` what they are by default.
    """
    changed, profile = changes(grid, given), given["profile"]
    numbers = results(last_epochs(grid, records)) if grid else {}
    carried = {"profile": profile, "changes": changed, "results": numbers}
    caption, beside = "The parameters that differ from the profile's own.", pd.DataFrame()
    if any(row["config"] != row["own"] for row in grid):
        beside = beside_own(grid, records, profiles.named(profile).seeds)
        if beside.empty:
            caption += " The profile's own runs are not stored, and so not shown beside."
    shown = {"rerun_changes": (pd.DataFrame(changed), caption), "rerun_beside": (beside, BESIDE)}
    return carried, {name: found for name, found in shown.items() if len(found[0])}


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


def last_epochs(grid: list[dict], records: Sequence[Record | None]) -> pd.DataFrame:
    """Return a row per run, its last epoch, with the right answers by class where they are known.

    ``experiment`` names it, ``setting`` does so without its method.
    """
    labels = [
        {
            "experiment": experiment(row),
            "setting": experiment(row, "method"),
            "method": row["method"],
            "config": row["config"],
        }
        for row in grid
    ]
    return statistics.final(with_counts(labeled(labels, records), records))


def beside_own(grid: list[dict], records: Sequence[Record | None], seeds: int) -> pd.DataFrame:
    """Return Recall@1 of a rerun beside that of the profile's stored runs, and the difference.

    A verdict needs every interval that there is, over the seeds and over the test classes.

    Args:
        grid, records: what was run. seeds: of the profile.

    Returns:
        A row for each experiment; none where no run of the profile is stored.
    """
    own = {
        (experiment(row), seed): row | {"config": row["own"].replace(seed=seed)}
        for row in grid
        for seed in sorted({row["seed"], *range(seeds)})
    }
    rows = list(own.values())
    configs = [row["config"] for row in rows]
    stored = by_loop(configs, missing_too=False)
    if not any(stored):
        return pd.DataFrame()
    here, there = last_epochs(grid, records), last_epochs(rows, stored)
    both = pd.concat([here.assign(run=RERUN), there.assign(run=OWN)], ignore_index=True)
    changed = {experiment(row) for row in grid if row["config"] != row["own"]}
    claim = Claim("", "", "", "", RERUN, OWN, column="run", by="experiment", counts=COUNTS)
    cells = claims.evaluate(claim, both[both.experiment.isin(changed)]).cells
    differences = {cell.name: told(cell) for cell in cells}
    same = {"difference": None, "over test classes": "", "verdict": "the same runs"}
    found: list[dict] = []
    for name, runs in both.groupby("experiment", sort=False):
        each = {which: tables.interval(runs[RECALL][runs.run == which]) for which in (OWN, RERUN)}
        dataset = runs.dataset.iloc[0]
        about = {"dataset": dataset, "experiment": str(name).removeprefix(f"{dataset}, ")}
        found.append(about | each | differences.get(str(name), same))
    return pd.DataFrame(found)


def told(cell: Cell) -> dict[str, Any]:
    """Return a difference, its interval over the test classes, and its verdict."""
    verdict = NOT_SIGNIFICANT
    if not cell.seeds["n"]:
        verdict = NOT_RUN if cell.reason == NOT_RUN else "no common seed"
    elif not cell.intervals:
        verdict = ONE_SEED
    elif all(low > 0 for low, _ in cell.intervals):
        verdict = "larger"
    elif all(high < 0 for _, high in cell.intervals):
        verdict = "smaller"
    ends = f"{cell.classes.low:.1f} to {cell.classes.high:.1f}" if cell.classes else ""
    return {
        "difference": tables.of(cell.seeds),
        "over test classes": ends.replace("-", "−"),
        "verdict": verdict,
    }


def results(last: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that an executed notebook carries: Recall@1, and MDR − L2 of each setting.

    Each has ``mean``, ``half``, ``n`` and ``text``; a difference also the ends of its interval over
    the test classes, ``low`` and ``high``. What there is not is None.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, runs in last.groupby("experiment", sort=False):
        recall = tables.interval(runs[RECALL])
        found[str(name)] = dataclasses.asdict(recall) | {"text": str(recall)}
    pairs = last[last.method.isin([MDR, L2])]
    claim = Claim("", "", "", "", MDR, L2, by="setting", counts=COUNTS)
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
