"""The published runs: ``reports/PROFILE/runs.csv``, a row per run and epoch, read only.

A row has the run's settings (``config.…``) and an epoch's numbers, a run's first row also its
provenance. ``findings/KEY.safetensors`` beside it are kept for a few runs.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mdr_core.config import Config, from_dict
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
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
        return {committed_name(from_dict(config_of(run))): run for run in reversed(runs)}
    except (ValueError, KeyError, StudyError) as problem:
        raise StudyError(f"{path} is not a table of runs: {problem}") from None


def config_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the settings of a run, by its first row."""
    kinds, config = Config.__annotations__, {}
    for column, text in rows.iloc[0].items():
        if str(column).startswith("config.") and text != "":
            name = str(column).removeprefix("config.")
            config[name] = text if kinds.get(name) is str else json.loads(text)
    config["backbone"] = RENAMED.get(config["backbone"], config["backbone"])
    return config


def from_rows(rows: pd.DataFrame, folder: Path) -> Record:
    """Return the run that :func:`to_rows` made these rows of; an empty cell was not there."""
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


def to_rows(record: Record) -> list[dict[str, str]]:
    """Return a row per epoch, every cell text: a string as it is, anything else as JSON."""
    about = {f"config.{name}": value for name, value in record["config"].items()}
    rows: list[dict] = [{"key": record["key"]} | about | row for row in record["history"]]
    rows[0] |= {"content": record["content"], "provenance": record["provenance"]}
    return [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]


def keep(records: Iterable[Record], folder: Path, findings: set[str]) -> int:
    """Add runs to the committed ones of a folder, which stay as they are; return how many.

    ``findings``: keys of the runs whose findings are kept, too.
    """
    path = folder / "runs.csv"
    there = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else None
    known = table(path, path.stat().st_mtime_ns) if there is not None else {}
    new = [r for r in records if committed_name(from_dict(r["config"])) not in known]
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    for record in new:
        if record["key"] in findings and (own := record["files"].get("findings")):
            write(folder / "findings" / f"{record['key']}.safetensors", Path(own).read_bytes())
    if new:
        rows = pd.DataFrame([row for record in new for row in to_rows(record)])
        whole = pd.concat([there, rows]).fillna("")
        write(path, whole.to_csv(index=False, lineterminator="\n"))
    return len(new)
