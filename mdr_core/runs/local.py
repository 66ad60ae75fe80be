"""This machine's runs: a stored one is read, a killed one goes on from its last epoch.

<runs_root()>/<name>/run.json          config, history, provenance, checksum; written last
                     weights.safetensors, embeddings.safetensors, findings.safetensors
                     checkpoint.pt     after every epoch, while the run is under way

A folder from another machine may be copied there, with or without the large files.
"""

import contextlib
import functools
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mdr_core.config import Config, pretraining
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.files import locked, runs_root, write
from mdr_core.runs.names import local_name
from mdr_core.runs.record import Record, provenance, tensors

Train = Callable[..., Any]  # as mdr_core.training.train, which returns a Trainer
FILES = ("weights", "embeddings", "findings")
drawn = functools.lru_cache(maxsize=2)(load_dataset)  # the only images that never change


def dataset(config: Config) -> RetrievalDataset:
    """Return the images of a run."""
    load = drawn if config.dataset.startswith("drawn") else load_dataset
    return load(config.dataset, config.image_size)


def find(
    config: Config, fingerprint: str, train: Train | None = None, files: bool = False
) -> Record | None:
    """Return a stored run; None where there is none, or it lacks the ``files`` that are needed.

    Args:
        fingerprint: of the data here.
        train: who trains it, as for :func:`mdr_core.runs.run.run`.
    """
    record = read(runs_root() / local_name(config, fingerprint, train))
    return None if record is None or (files and len(record["files"]) < len(FILES)) else record


def read(folder: Path) -> Record | None:
    """Return the run of a folder; None where there is none.

    One that is not what its checksum says is corrupt: it is kept under another name.

    Raises:
        StudyError: it is there, and the system cannot read it.
    """
    try:
        text = (folder / "run.json").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise StudyError(
            f"{folder}/run.json cannot be read ({problem.strerror}): mend that, or set MDR_RUNS"
        ) from None
    try:
        record = json.loads(text)
        if sha256([record["config"], record["history"]]) != record["content"]:
            raise ValueError("run.json is not what its checksum says")
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        aside = folder.with_name(f"{folder.name}.corrupt-{time.time_ns()}")
        with contextlib.suppress(OSError):  # of a folder that may only be read
            os.replace(folder, aside)
        line = f"stored run {folder.name} is corrupt ({problem}): kept as {aside.name}"
        warnings.warn(line, stacklevel=2)
        return None
    paths = {name: folder / f"{name}.safetensors" for name in FILES}
    files = {name: str(path) for name, path in paths.items() if path.exists()}
    return record | {"key": folder.name, "files": files}


def train(config: Config, train: Train | None = None, files: bool = False) -> Record:
    """Return a run, trained now unless it is stored.

    Raises:
        StudyError: before the training, the folder cannot be written to; or what that raises.
    """
    data = dataset(config)
    if record := find(config, data.fingerprint, train, files):
        return record
    folder = runs_root() / local_name(config, data.fingerprint, train)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # of two processes, one trains it
            record = find(config, data.fingerprint, train, files)
            return record or trained(config, data, folder, train)
    except OSError as problem:  # a full disk, say
        raise StudyError(
            f"run {folder.name} cannot be written to {folder.parent}: "
            f"{problem.strerror or problem}; make room, or set MDR_RUNS"
        ) from None


def trained(config: Config, data: RetrievalDataset, folder: Path, train: Train | None) -> Record:
    """Train a run, or go on from its checkpoint, and store it."""
    from mdr_core import training
    from mdr_core.evaluation import epoch

    began = time.perf_counter()
    trainer = (train or training.train)(
        config,
        data,
        backbone_state=backbone_of(config),
        checkpoint=checkpoint(folder),
        after_epoch=lambda trainer: write(folder / "checkpoint.pt", trainer.checkpoint()),
    )
    weights = trainer.model.state_dict()
    weights |= {f"mdr.{name}": value for name, value in trainer.mdr.state_dict().items()}
    embeddings: dict[str, torch.Tensor] = {}
    for name, split in {"test": data.test, "gallery": data.gallery}.items():
        if split is not None:
            embeddings[name] = epoch.embed_split(config, trainer.model, split)
            embeddings[f"{name}_labels"] = split.labels
    found = epoch.findings(epoch.RetrievalSet(*embeddings.values()))
    for name, values in zip(FILES, (weights, embeddings, found), strict=True):
        content = save({key: value.contiguous() for key, value in values.items()})
        write(folder / f"{name}.safetensors", content)
    about = json.loads(json.dumps(config.to_dict()))
    record = {
        "config": about,
        "history": trainer.history,
        "content": sha256([about, trainer.history]),
        "provenance": provenance(config.device, data.fingerprint, time.perf_counter() - began),
    }
    write(folder / "run.json", json.dumps(record, indent=1))
    for left in (folder / "checkpoint.pt", *folder.glob(".*")):  # the latter of killed processes
        left.unlink(missing_ok=True)
    return read(folder) or record  # type: ignore[return-value]


def backbone_of(config: Config) -> dict[str, torch.Tensor] | None:
    """Return the backbone's weights where a run pretrains them, on drawn characters."""
    if config.weights != "classes":
        return None
    weights = tensors(train(pretraining(config), files=True), "weights") or {}
    own = [name for name in weights if name.startswith("backbone.")]
    return {name.removeprefix("backbone."): weights[name] for name in own}


def checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return a killed run's state after its last epoch, if there is one that can be read."""
    try:
        return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (MemoryError, OSError):  # for want of room now, say: the state stays
        raise
    except Exception as problem:  # noqa: BLE001 - whatever a torn file makes torch raise
        line = f"the checkpoint of run {folder.name} cannot be read ({problem}): training anew"
        warnings.warn(line, stacklevel=2)
        return None
