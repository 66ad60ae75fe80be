"""The stored runs of a profile as one CSV beside its reports, and back again.

    python -m mdr_core archive export --profile photos       # the run store -> reports/photos
    python -m mdr_core archive restore --profile photos      # reports/photos -> the run store
    python -m mdr_core archive take new.zip --profile full   # what train --pack made -> both

``runs.csv`` has a row per run and epoch: the run's key, its configuration (``config.…``) and the
epoch's numbers. A run's first row also has its provenance (JSON) and the checksums of its files.
Beside it, ``findings/KEY.safetensors`` has what each method of Table 1 found on the test images
with the first seed. Restored runs render reports without training; they come without weights.
"""

import argparse
import json
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save as safetensors

from mdr_core.config import Config, from_dict
from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, replacing, write
from mdr_core.runs import identity
from mdr_core.runs.store import FINDINGS, WEIGHTS, Record, RunStore
from mdr_core.study import evidence, experiments, profiles

FILES = ("findings", "weights")  # columns and folders
ONCE = ("key", "content", "provenance", *FILES)
UNREADABLE = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)  # a damaged zip file


def to_table(records: Iterable[dict]) -> pd.DataFrame:
    """Return a row per run and epoch, every cell text: a string as it is, anything else as JSON."""
    rows = []
    for record in records:
        config = {f"config.{name}": value for name, value in record["config"].items()}
        once = {name: record[name] for name in ONCE if record.get(name)}
        for row in record["history"]:
            cells = {"key": record["key"]} | config | row | once
            rows.append({k: v if isinstance(v, str) else json.dumps(v) for k, v in cells.items()})
            once = {}
    return pd.DataFrame(rows).fillna("")


def from_rows(key: str, rows: pd.DataFrame) -> dict:
    """Return the record that :func:`to_table` made these rows of; an empty cell was not there."""
    cells = [{k: v for k, v in row.items() if v != ""} for row in rows.to_dict("records")]
    config, kinds = {}, Config.__annotations__
    for column, text in cells[0].items():
        if column.startswith("config."):
            name = column.removeprefix("config.")
            config[name] = text if kinds.get(name) is str else json.loads(text)
    provenance = json.loads(cells[0]["provenance"])
    if not isinstance(provenance, dict):
        raise ValueError(f"the provenance of {key} is {type(provenance).__name__}")
    history = [
        {k: json.loads(v) for k, v in row.items() if k not in ONCE and k[:7] != "config."}
        for row in cells
    ]
    return {
        "key": key,
        "config": config,
        "history": history,
        "content": cells[0]["content"],
        "provenance": provenance,
        **{name: cells[0].get(name) for name in FILES},
    }


def read(path: Path) -> list[dict]:
    """Return the records of a ``runs.csv``.

    Raises:
        StudyError: it is absent, or no table of runs.
    """
    if not path.is_file():
        raise StudyError(
            f"there is no {path}: it comes with the repository for the profiles that have runs"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return [from_rows(str(key), rows) for key, rows in table.groupby("key", sort=False)]
    except (ValueError, KeyError, RecursionError) as problem:
        raise StudyError(f"{path} is not a table of runs: {problem}".splitlines()[0]) from None


def export(profile: str, folder: Path, store: RunStore, **changes) -> int:
    """Write a profile's runs, those of the store and those that ``folder`` has; return how many.

    Args:
        changes: fields of Config that the runs were trained with, the device, say.
    """
    configs = evidence.wanted(profile, store, **changes)
    path = folder / "runs.csv"
    there = {from_dict(record["config"]): record for record in read(path)} if path.exists() else {}
    stored = {config: record for config in configs if (record := store.read(config))}
    if not stored:
        raise StudyError(
            f"{store.root} holds no run of profile {profile}: "
            f"make reports PROFILE={profile} trains them"
        )
    names, methods = profiles.datasets(profile), [*profiles.METHODS, profiles.BEFORE]
    first = {row["config"] for row in experiments.table1(profile, names, methods, [0], **changes)}
    records = []
    for config in configs:
        if config in stored:
            records.append(packed(stored[config], store, folder, findings=config in first))
        elif config in there:
            records.append(there[config])
    kept = {record["key"] for record in records if record["findings"]}
    for file in (folder / "findings").glob("*.safetensors"):
        if file.stem not in kept:
            file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write(path, to_table(records).to_csv(index=False, lineterminator="\n"))
    return len(records)


def packed(
    record: Record, store: RunStore, folder: Path, findings: bool = True, weights: bool = False
) -> dict:
    """Return the record as :func:`to_table` takes it; its files are written below ``folder``.

    The weights are written in float16.
    """
    content = {}
    if findings and FINDINGS in record["files"]:
        content["findings"] = (store.root / record["key"] / FINDINGS).read_bytes()
    if weights and WEIGHTS in record["files"]:
        state = store.weights(record)
        half = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
        content["weights"] = safetensors(half)
    for name, data in content.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name / f"{record['key']}.safetensors", data)
    return {**record, **{name: sha256(content[name]) if name in content else "" for name in FILES}}


def pack(configs: list[Config], store: RunStore, path: Path, committed: Path) -> int:
    """Write stored runs into one zip file, to be taken elsewhere; return how many.

    Runs that the table ``committed`` has are left out. Each dataset's first run with MDR and seed 0
    has its weights, all runs have their findings.
    """
    mdr = (c for c in configs if c.mdr_weight > 0 and c.seed == 0)
    first = {c.dataset: c for c in reversed([*mdr])}
    there = {record["key"] for record in read(committed)} if committed.exists() else set()
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name), []
        for config in configs:
            record = store.read(config)
            if record is not None and record["key"] not in there:
                weights = first.get(config.dataset) == config
                records.append(packed(record, store, folder, weights=weights))
        if not records:
            raise StudyError(f"{store.root} has no run that is not committed: nothing to pack")
        write(folder / "runs.csv", to_table(records).to_csv(index=False, lineterminator="\n"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as whole, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    return len(records)


def take(path: Path, store: RunStore) -> str:
    """Put the runs of :func:`pack` into the store; return what :func:`restore` says."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(name)  # which drops absolute paths and ..
        except UNREADABLE as problem:
            raise StudyError(f"{path} cannot be read: {problem}; fetch it anew") from None
        return restore(Path(name), store)


def put(folder: Path, store: RunStore) -> tuple[list[dict], int]:
    """Put a folder's runs into the store; return them, and how many it had with other numbers."""
    records = read(folder / "runs.csv")
    return records, [store.restore(record, folder) for record in records].count(False)


def restore(folder: Path, store: RunStore) -> str:
    """Put a folder's runs into the store; return a line on how many this installation finds."""
    records, others = put(folder, store)
    reasons = [why for record in records if (why := not_found(record, store))]
    text = f"{len(records)} runs restored to {store.root}"
    if others:
        text += f" ({others} of them were trained to other numbers here, which stay)"
    if not reasons:
        return f"{text}, all found by this installation"
    causes = "; ".join(f"{count} for {why}" for why, count in Counter(reasons).items())
    return f"{text}; this installation does not find {len(reasons)} of them: {causes}"


def not_found(record: dict, store: RunStore) -> str | None:
    """Return why this installation does not find a stored run; None where it does."""
    try:
        config = from_dict(record["config"])
    except StudyError as problem:
        return f"another configuration ({problem})"
    try:
        fingerprint = store.dataset(config).fingerprint
    except StudyError as problem:
        return f"the data ({problem})"
    if identity.key_of(config, fingerprint) == record["key"]:
        return None
    if fingerprint != record["provenance"].get("data"):
        return f"other data ({config.dataset} has other images, labels or classes here)"
    version = record["provenance"].get("numbers")
    if identity.number_version() != version:
        return f"other code ({identity.notice() or f'its number version is {version}'})"
    if config.loop != "study":
        return "other code (mdr_core/drop_in.py differs from the text that trained them)"
    return "another configuration (a default of mdr_core/config.py has changed)"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core archive", description="Stored runs as one CSV, and back."
    )
    parser.add_argument("action", choices=("export", "restore", "take"))
    parser.add_argument("packed", nargs="?", type=Path, help="the file to take")
    parser.add_argument("--profile", required=True, help=", ".join(profiles.PROFILES))
    parser.add_argument("--folder", type=Path, help="default: reports/PROFILE")
    parser.add_argument("--output-root", default=REPOSITORY / "runs", help="the run store")
    parser.add_argument("--data-root", help="where the datasets lie")
    parser.add_argument("--device", help="of the runs to export (default: the profile's)")
    given = parser.parse_args(argv)
    folder = given.folder or REPOSITORY / "reports" / given.profile
    store = RunStore(given.output_root, given.data_root)
    if (given.action == "take") != (given.packed is not None):
        parser.error("take wants the file that train --pack wrote, and nothing else does")
    if given.action == "restore":
        print(restore(folder, store))
        return 0
    if given.action == "take":
        if (folder / "runs.csv").exists():
            put(folder, store)  # first: what is committed stays
        print(take(given.packed, store))
    changes = {"device": given.device} if given.device else {}
    print(f"{export(given.profile, folder, store, **changes)} runs written to {folder}")
    return 0
