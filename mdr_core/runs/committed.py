"""The published runs: ``reports/PROFILE/runs.csv``, a row per run and epoch.

A row has the run's settings (``config.…``) and an epoch's numbers, a run's first row also its
provenance. ``findings/KEY.safetensors`` beside it are kept for a few runs. They are only read, and
``python -m mdr_core keep --profile photos`` adds this machine's runs to them.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, runs_root, write
from mdr_core.profiles import METHODS, PROFILES, Study
from mdr_core.runs import local
from mdr_core.runs.local import Record, committed_name, settings

REPORTS = REPOSITORY / "reports"
ONCE = ("key", "content", "provenance", "findings", "weights")


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
        if (name := str(column).removeprefix("config.")) != column and text != "":
            config[name] = text if isinstance(getattr(default, name, 0), str) else json.loads(text)
    return config | {"dataset": config["dataset"]}  # a table without settings is none of runs


def from_rows(rows: pd.DataFrame, folder: Path) -> Record:
    """Return the run that these rows are of; an empty cell was not there."""
    first = rows.iloc[0]
    findings = folder / "findings" / f"{first['key']}.safetensors"
    numbers = [name for name in rows if name not in ONCE and not name.startswith("config.")]
    return {
        "key": first["key"],
        "config": Config(**config_of(rows)).model_dump(),
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
    text = json.JSONEncoder(separators=(",", ":")).encode  # spaces would be 1 MB
    return [{k: v if isinstance(v, str) else text(v) for k, v in row.items()} for row in rows]


def keep(profile: str) -> list[Config]:
    """Add each run in MDR_RUNS that is of a profile's datasets and not committed; return which.

    What is committed stays as it is. The findings of Table 1's first seed are kept, too.
    """
    from mdr_core.runs import facts  # which imports this module, and what trains

    own, folder = PROFILES[profile].settings, REPORTS / profile
    found = filter(None, map(local.read, runs_root().glob("*/")))
    newest = sorted(found, key=lambda record: record["provenance"]["finished"])  # of the same, last
    every = {Config(**record["config"]): record for record in newest}
    new = {c: r for c, r in every.items() if c.dataset in own and find(c) is None}
    if not new:
        raise StudyError(f"MDR_RUNS has no run that {profile} lacks: make train trains some")
    path, told = folder / "runs.csv", folder / "datasets.json"
    about = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    pictured = {committed_name(Study(profile).config(m, d)) for m in METHODS for d in own}
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    for config, record in new.items():
        facts.add(about, config)
        if committed_name(config) in pictured and (file := record["files"].get("findings")):
            write(folder / "findings" / f"{record['key']}.safetensors", Path(file).read_bytes())
    there = [pd.read_csv(path, dtype=str, keep_default_na=False)] if path.exists() else []
    rows = pd.DataFrame([row for record in new.values() for row in to_rows(record)])
    write(told, json.dumps(about, indent=1, ensure_ascii=False) + "\n")  # a kept run has its facts
    write(path, pd.concat([*there, rows]).fillna("").to_csv(index=False, lineterminator="\n"))
    return [*new]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m mdr_core keep", description=__doc__)
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    for config in keep(profile := parser.parse_args(argv).profile):
        print(f"kept in reports/{profile}/runs.csv: {settings(config)}")
    return 0
