"""Add this machine's runs of a profile to the committed ones: ``python -m mdr_core keep``.

What is committed stays as it is. The findings of the first seed's runs of Table 1 are kept, too.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mdr_core.config import from_dict
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
from mdr_core.runs import committed, local
from mdr_core.runs.local import Record
from mdr_core.runs.names import committed_name
from mdr_core.study import data_facts, evidence, experiments, profiles
from mdr_core.study.train import by_loop


def to_rows(record: Record) -> list[dict[str, str]]:
    """Return a row per epoch, every cell text: a string as it is, anything else as JSON."""
    about = {f"config.{name}": value for name, value in record["config"].items()}
    rows: list[dict] = [{"key": record["key"]} | about | row for row in record["history"]]
    rows[0] |= {"content": record["content"], "provenance": record["provenance"]}
    return [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]


def add(records: Iterable[Record], folder: Path, findings: set[str]) -> int:
    """Add runs to the committed ones of a folder, which stay as they are; return how many.

    ``findings``: keys of the runs whose findings are kept, too.
    """
    path = folder / "runs.csv"
    there = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else None
    known = committed.table(path, path.stat().st_mtime_ns) if there is not None else {}
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


def keep(profile: str) -> int:
    """Keep the runs of a profile that this machine has; return how many were not committed."""
    folder = REPOSITORY / "reports" / profile
    wanted = [config for config in evidence.wanted(profile) if committed.find(config) is None]
    found = by_loop(wanted, committed_too=False, missing_too=False)
    new = [record for record in found if record is not None]
    names, methods = profiles.datasets(profile), [*profiles.METHODS, profiles.BEFORE]
    first = {row["config"] for row in experiments.table1(profile, names, methods, [0])}
    with_findings = {r["key"] for c, r in zip(wanted, found, strict=True) if r and c in first}
    count = add(new, folder, with_findings)
    path = folder / "datasets.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for config in (from_dict(record["config"]) for record in new):
        if config.dataset not in about:
            about[config.dataset] = data_facts.facts_of(local.dataset(config))
        floors, name = about[config.dataset].setdefault("floors", {}), data_facts.settings(config)
        floors[name] = floors.get(name) or data_facts.floors_of(config)
    if count:
        write(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core keep", description="Add runs of a profile to the committed ones."
    )
    parser.add_argument("--profile", default="quick", help=", ".join(profiles.PROFILES))
    given = parser.parse_args(argv)
    if not (count := keep(given.profile)):
        raise StudyError(
            f"no run of {given.profile} is in MDR_RUNS that is not committed: "
            f"make train PROFILE={given.profile} trains what is missing"
        )
    print(f"{count} runs added to reports/{given.profile}/runs.csv")
    return 0
