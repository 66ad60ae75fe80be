"""The stored runs of a profile as one CSV beside its reports, and back again.

    python -m mdr_core archive export --profile photos      # reports/photos/runs.csv from the run store
    python -m mdr_core archive restore --profile photos     # the run store from reports/photos/runs.csv

The file has a row per run and epoch: the run's key, its configuration (``config.…``) and the epoch's numbers; a run's first
row also has what they depend on (``provenance``, JSON). Beside it, ``findings/KEY.safetensors``: what each method of Table 1 found on
the test images with the first seed. Restored runs render reports without hours of training; they come without weights and
embeddings, and a notebook that needs those trains the run anew.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from mdr_core.config import from_dict, hints
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
from mdr_core.runs import identity, store
from mdr_core.runs.store import Record, RunStore
from mdr_core.study import experiments, profiles


def to_table(records: list[Record]) -> pd.DataFrame:
    """A row per run and epoch, every cell text: a string as it is, anything else as JSON."""
    rows = []
    for record in records:
        about = {"key": record["key"]} | {
            f"config.{k}": text(v) for k, v in record["config"].items()
        }
        once = {
            "content": record["content"],
            "provenance": text(record["provenance"]),
            "findings": record["files"].get(store.FINDINGS, ""),
        }
        rows += [
            about | {k: text(v) for k, v in row.items()} | (once if i == 0 else {})
            for i, row in enumerate(record["history"])
        ]
    return pd.DataFrame(rows).fillna("")


def from_table(table: pd.DataFrame) -> list[dict]:
    """The records of :func:`to_table`; cells that are empty were never there."""
    records = []
    for key, rows in table.groupby("key", sort=False):
        cells = [{k: v for k, v in row.items() if v != ""} for row in rows.to_dict("records")]
        config = {
            k.removeprefix("config."): v for k, v in cells[0].items() if k.startswith("config.")
        }
        config = {k: v if hints().get(k) is str else json.loads(v) for k, v in config.items()}
        other = ("key", "content", "provenance", "findings")
        history = [
            {
                k: json.loads(v)
                for k, v in row.items()
                if k not in other and not k.startswith("config.")
            }
            for row in cells
        ]
        records.append(
            {
                "key": key,
                "config": config,
                "history": history,
                "content": cells[0]["content"],
                "provenance": json.loads(cells[0]["provenance"]),
                "findings": cells[0].get("findings"),
            }
        )
    return records


def text(thing: object) -> str:
    return thing if isinstance(thing, str) else json.dumps(thing)


def read(path: Path) -> list[dict]:
    """The records of a ``runs.csv``."""
    if not path.is_file():
        raise StudyError(
            f"there is no {path}: it comes with the repository, for the profiles whose runs are committed"
        )
    try:
        return from_table(pd.read_csv(path, dtype=str, keep_default_na=False))
    except (ValueError, KeyError, RecursionError) as problem:
        raise StudyError(f"{path} is not a table of runs: {problem}".splitlines()[0]) from None


def export(profile: str, path: Path, root: Path, data_root: str | None = None, **changes) -> int:
    """Write every complete run of a profile's experiments to ``path``; how many there were. ``changes``: fields of Config."""
    found, runs = [], RunStore(root, data_root)
    for config in experiments.everything(profile, **changes):
        record = store.stored(runs.folder(config), config)
        found += [record] if record is not None else []
    if not found:
        raise StudyError(
            f"{root} holds no run of profile {profile}: make reports PROFILE={profile} trains them"
        )
    beside = path.parent / "findings"
    beside.mkdir(parents=True, exist_ok=True)
    shown = {
        row["config"]
        for row in experiments.table1(
            profile, profiles.datasets(profile), list(profiles.METHODS), [0], **changes
        )
    }
    kept = [r for r in found if store.FINDINGS in r["files"] and from_dict(r["config"]) in shown]
    for record in kept:
        write(
            beside / f"{record['key']}.safetensors",
            (root / record["key"] / store.FINDINGS).read_bytes(),
        )
    for left in {*beside.glob("*.safetensors")} - {
        beside / f"{record['key']}.safetensors" for record in kept
    }:
        left.unlink()
    kept_keys = {record["key"] for record in kept}
    table = to_table([r if r["key"] in kept_keys else r | {"files": {}} for r in found])
    write(path, table.to_csv(index=False, lineterminator="\n"))
    return len(found)


def restore(path: Path, root: Path, data_root: str | None = None) -> str:
    """Put the runs of ``path`` into the store ``root``, unless they are there; how many there are, and whether this installation finds them."""
    reasons, records = [], read(path)
    for record in records:
        RunStore(root).restore(record, path.parent / "findings")
        reasons += [why] if (why := not_found(record, data_root)) else []
    said = f"{len(records)} runs restored to {root}"
    if not reasons:
        return f"{said}, all found by this installation"
    return f"{said}; this installation does not find {len(reasons)} of them: " + "; ".join(
        f"{count} for {why}" for why, count in Counter(reasons).items()
    )


def not_found(record: dict, data_root: str | None) -> str | None:
    """Why this installation does not find a stored run; None where it does."""
    try:
        config = from_dict(record["config"])
    except StudyError as problem:
        return f"another configuration ({problem})"
    try:
        fingerprint = RunStore(data_root=data_root).dataset(config).fingerprint
    except StudyError as problem:
        return f"the data ({problem})"
    if identity.key_of(config, fingerprint) == record["key"]:
        return None
    if fingerprint != record["provenance"]["data"]:
        return f"other data ({config.dataset} has other images, labels or classes here)"
    if identity.number_version() != record["provenance"].get("numbers"):
        return f"other code ({identity.notice() or 'its number version is ' + str(record['provenance'].get('numbers'))})"
    return "another configuration (a default of mdr_core/config.py has changed)"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core archive", description="Stored runs as one CSV, and back."
    )
    parser.add_argument("action", choices=("export", "restore"))
    parser.add_argument("--profile", default="photos")
    parser.add_argument("--file", type=Path, help="default: reports/PROFILE/runs.csv")
    parser.add_argument(
        "--output-root", type=Path, default=REPOSITORY / "runs", help="the run store"
    )
    parser.add_argument("--data-root", help="where the datasets lie")
    parser.add_argument(
        "--device", help="that the runs to export were trained on (default: the profile's)"
    )
    given = parser.parse_args(argv)
    path = given.file or REPOSITORY / "reports" / given.profile / "runs.csv"
    try:
        if given.action == "export":
            changes = {"device": given.device} if given.device else {}
            print(
                f"{export(given.profile, path, given.output_root, given.data_root, **changes)} runs written to {path}"
            )
        else:
            print(restore(path, given.output_root, given.data_root))
    except (StudyError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
