"""The published runs: ``reports/PROFILE/runs.csv``, a row per run and epoch, read only.

A row has the run's settings (``config.…``) and an epoch's numbers, a run's first row also its
provenance. ``findings/KEY.safetensors`` beside it are kept for a few runs.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY
from mdr_core.runs.local import Record
from mdr_core.runs.names import committed_name

REPORTS = REPOSITORY / "reports"
ONCE = ("key", "content", "provenance", "findings", "weights")
# backbones of committed runs, by timm's names since
RENAMED = {f"efficientnet_lite{size}": f"tf_efficientnet_lite{size}" for size in range(3)}


def find(config: Config) -> Record | None:
    """Return the committed run of these settings on a dataset of this name; None: there is none."""
    name = committed_name(config)
    for path in sorted(REPORTS.glob("*/runs.csv")):
        if name in (rows := table(path, path.stat().st_mtime_ns)):
            return from_rows(rows[name], path.parent)
    return None


@functools.lru_cache(maxsize=16)
def table(path: Path, changed: int) -> dict[str, pd.DataFrame]:
    """Return name -> rows of a ``runs.csv``, every cell text. ``changed``: when the file was.

    Raises:
        StudyError: it is no table of runs.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        runs = [run for _, run in rows.groupby("key", sort=False)]
        return {committed_name(Config(**config_of(run))): run for run in reversed(runs)}
    except (ValueError, KeyError, StudyError) as problem:
        raise StudyError(f"{path} is not a table of runs: {problem}") from None


def config_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the settings of a run, by its first row."""
    default, config = Config(), {}
    for column, text in rows.iloc[0].items():
        if str(column).startswith("config.") and text != "":
            name = str(column).removeprefix("config.")
            config[name] = text if isinstance(getattr(default, name, 0), str) else json.loads(text)
    config["backbone"] = RENAMED.get(config["backbone"], config["backbone"])
    return config


def from_rows(rows: pd.DataFrame, folder: Path) -> Record:
    """Return the run that these rows are of; an empty cell was not there."""
    first = rows.iloc[0]
    findings = folder / "findings" / f"{first['key']}.safetensors"
    numbers = [name for name in rows if name not in ONCE and not name.startswith("config.")]
    return {
        "key": first["key"],
        "config": Config(**config_of(rows)).to_dict(),
        "history": [
            {name: json.loads(row[name]) for name in numbers if row[name] != ""}
            for row in rows.to_dict("records")
        ],
        "content": first["content"],
        "provenance": json.loads(first["provenance"]),
        "files": {"findings": str(findings)} if findings.exists() else {},
    }
