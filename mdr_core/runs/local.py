"""This machine's runs: a stored one is read, a killed one goes on from its last epoch.

<runs_root()>/<name>/run.json          config, history, provenance, checksums; written last
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

import torch
from safetensors.torch import save

from mdr_core.config import Config, pretraining
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.files import locked, runs_root, write
from mdr_core.runs.names import local_name
from mdr_core.runs.record import Record, provenance, tensors

Train = Callable[..., "object"]  # as mdr_core.training.train
drawn = functools.lru_cache(maxsize=2)(load_dataset)  # the only images that never change


def dataset(config: Config) -> RetrievalDataset:
    """Return the images of a run."""
    load = drawn if config.dataset.startswith("drawn") else load_dataset
    return load(config.dataset, image_size=config.image_size)


def fillable(config: Config) -> int:
    """Return ``config.batch_size``, or as much of it as the training classes fill."""
    counts = dataset(config).train.labels.bincount()
    return min(config.batch_size, int(counts.clamp(max=config.images_per_class).sum()))


def find(
    config: Config, fingerprint: str, train: Train | None = None, files: bool = False
) -> Record | None:
    """Return a stored run; None where there is none, or it lacks the ``files`` that are needed.

    Args:
        fingerprint: of the data here.
        train: who trains it, as for :func:`mdr_core.runs.run.run`.

    Raises:
        StudyError: it is there and cannot be read.
    """
    record = read(runs_root() / local_name(config, fingerprint, train))
    if record is None or (files and not {"weights", "embeddings"} <= record["files"].keys()):
        return None
    return record


def read(folder: Path) -> Record | None:
    """Return the run of a folder; None where there is none, or where it was set aside.

    One whose content is not what its checksum says is corrupt, and set aside.
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
        whole = sha256([record["config"], record["history"]]) == record["content"]
        files = {str(k).removesuffix(".safetensors"): v for k, v in record["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        set_aside(folder)
        return None
    files = {name: v for name, v in files.items() if (folder / f"{name}.safetensors").exists()}
    return record | {"key": folder.name, "files": files, "folder": str(folder)}


def train(config: Config, train: Train | None = None, files: bool = False) -> Record:
    """Return a run, trained now unless it is stored.

    Raises:
        StudyError: before the training, the folder cannot be written to; or what that raises.
    """
    data = dataset(config)
    folder = runs_root() / local_name(config, data.fingerprint, train)
    if (record := find(config, data.fingerprint, train, files)) is not None:
        return record
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
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
    folder.mkdir(exist_ok=True)
    backbone = backbone_of(config)
    trainer = (train or training.train)(
        config,
        data,
        backbone_state=backbone,
        checkpoint=checkpoint(folder),
        after_epoch=lambda trainer: write(folder / "checkpoint.pt", trainer.checkpoint()),
    )
    embeddings: dict[str, torch.Tensor] = {}
    for name, split in {"test": data.test, "gallery": data.gallery}.items():
        if split is not None:
            embeddings[name] = epoch.embed_split(config, trainer.model, split)
            embeddings[f"{name}_labels"] = split.labels
    weights = trainer.model.state_dict()
    weights |= {f"mdr.{name}": value for name, value in trainer.mdr.state_dict().items()}
    found = epoch.findings(epoch.RetrievalSet(*embeddings.values()))
    kept = {"weights": weights, "embeddings": embeddings, "findings": found}
    checksums = {}
    for name, values in kept.items():
        content = save({key: value.contiguous() for key, value in values.items()})
        write(folder / f"{name}.safetensors", content)
        checksums[name] = sha256(content)
    about = json.loads(json.dumps(config.to_dict()))
    record = {
        "config": about,
        "history": trainer.history,
        "content": sha256([about, trainer.history]),
        "provenance": provenance(config.device, data.fingerprint, time.perf_counter() - began),
        "files": checksums,
    }
    write(folder / "run.json", json.dumps(record, indent=1))
    for left in (folder / "checkpoint.pt", *folder.glob(".*")):  # the latter of killed processes
        left.unlink(missing_ok=True)
    stored = read(folder)
    assert stored is not None
    return stored


def backbone_of(config: Config) -> dict[str, torch.Tensor] | None:
    """Return the backbone's weights where a run pretrains them, on drawn characters."""
    if config.weights != "classes":
        return None
    weights = tensors(train(pretraining(config), files=True), "weights") or {}
    own = [name for name in weights if name.startswith("backbone.")]
    return {name.removeprefix("backbone."): weights[name] for name in own}


def checkpoint(folder: Path) -> dict | None:
    """Return a killed run's state after its last epoch, if there is one that can be read."""
    try:
        return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (MemoryError, OSError):  # for want of room now, say: the state stays
        raise
    except Exception as problem:  # noqa: BLE001 - whatever a torn file makes torch raise
        warnings.warn(
            f"the checkpoint of run {folder.name} cannot be read ({problem}): training anew",
            stacklevel=2,
        )
        return None


def set_aside(folder: Path) -> None:
    """Keep a run that cannot be trusted under another name, and warn of it."""
    aside = folder.with_name(f"{folder.name}.corrupt-{time.time_ns()}")
    with contextlib.suppress(OSError):  # of a folder that may only be read
        os.replace(folder, aside)
    warnings.warn(
        f"stored run {folder.name} is corrupt: run.json is not what its checksum says; it counts "
        f"as absent (kept as {aside.name})",
        stacklevel=3,
    )
