"""Add this machine's runs to the committed ones: ``python -m mdr_core keep --profile photos``."""

import argparse
import json
from pathlib import Path

import pandas as pd

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.files import runs_root, write
from mdr_core.profiles import METHODS, PROFILES, Study
from mdr_core.runs import committed, facts, local
from mdr_core.runs.local import Record
from mdr_core.runs.names import committed_name, settings


def to_rows(record: Record) -> list[dict[str, str]]:
    """Return a row per epoch, every cell text: a string as it is, anything else as JSON."""
    about = {f"config.{name}": value for name, value in record["config"].items()}
    rows: list[dict] = [{"key": record["key"]} | about | row for row in record["history"]]
    rows[0] |= {"content": record["content"], "provenance": record["provenance"]}
    return [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]


def keep(profile: str) -> list[Config]:
    """Add each run in MDR_RUNS that is of a profile's datasets and not committed; return which.

    What is committed stays as it is. The findings of Table 1's first seed are kept, too.
    """
    own, folder = PROFILES[profile].settings, committed.REPORTS / profile
    found = filter(None, map(local.read, sorted(runs_root().glob("*/"))))
    every = {Config(**record["config"]): record for record in found}
    new = {c: r for c, r in every.items() if c.dataset in own and committed.find(c) is None}
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
    write(path, pd.concat([*there, rows]).fillna("").to_csv(index=False, lineterminator="\n"))
    write(told, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return [*new]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m mdr_core keep", description=__doc__)
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    for config in keep(profile := parser.parse_args(argv).profile):
        print(f"kept in reports/{profile}/runs.csv: {settings(config)}")
    return 0
