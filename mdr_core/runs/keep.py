"""Add this machine's runs to the committed ones: ``python -m mdr_core keep --profile photos``."""

import argparse
import json
from pathlib import Path

import pandas as pd

from mdr_core.config import Config
from mdr_core.data import facts
from mdr_core.errors import StudyError
from mdr_core.files import runs_root, write
from mdr_core.profiles import PROFILES
from mdr_core.runs import committed, local
from mdr_core.runs.local import Record
from mdr_core.runs.names import committed_name


def to_rows(record: Record) -> list[dict[str, str]]:
    """Return a row per epoch, every cell text: a string as it is, anything else as JSON."""
    about = {f"config.{name}": value for name, value in record["config"].items()}
    rows: list[dict] = [{"key": record["key"]} | about | row for row in record["history"]]
    rows[0] |= {"content": record["content"], "provenance": record["provenance"]}
    return [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]


def keep(profile: str) -> list[Config]:
    """Add every run in MDR_RUNS on a profile's datasets that is not committed; return which.

    What is committed stays as it is. The findings of the first seed's full runs are kept, too.
    """
    folder = committed.REPORTS / profile
    path, about_path = folder / "runs.csv", folder / "datasets.json"
    found = [local.read(run.parent) for run in sorted(runs_root().glob("*/run.json"))]
    new = {}
    for record in found:
        config = Config(**record["config"])
        if config.dataset in PROFILES[profile].settings and committed.find(config) is None:
            new.setdefault(committed_name(config), (config, record))
    if not new:
        return []
    about = json.loads(about_path.read_text(encoding="utf-8")) if about_path.exists() else {}
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    for config, record in new.values():
        facts.add(about, config)
        if config.seed == 0 and not config.hold_out and (own := record["files"].get("findings")):
            write(folder / "findings" / f"{record['key']}.safetensors", Path(own).read_bytes())
    there = [pd.read_csv(path, dtype=str, keep_default_na=False)] if path.exists() else []
    rows = pd.DataFrame([row for _, record in new.values() for row in to_rows(record)])
    write(path, pd.concat([*there, rows]).fillna("").to_csv(index=False, lineterminator="\n"))
    write(about_path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return [config for config, _ in new.values()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m mdr_core keep", description=__doc__)
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    profile = parser.parse_args(argv).profile
    if not (kept := keep(profile)):
        raise StudyError(f"MDR_RUNS has no run that {profile} lacks: make train trains some")
    for config in kept:
        print(config.difference())
    return 0
