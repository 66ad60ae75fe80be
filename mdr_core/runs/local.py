"""This machine's runs: a stored one is read, a killed one goes on from its last epoch.

<runs_root()>/<name>/run.json          config, history, provenance, checksum; written last
                     weights.safetensors, findings.safetensors
                     checkpoint.pt     after every epoch, while the run is under way

A folder from another machine may be copied there, with or without the large files.
"""

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import PIL.features
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.errors import StudyError
from mdr_core.files import locked, runs_root, sha256, write
from mdr_core.runs.names import code_digest, git, local_name

Train = Callable[..., Any]  # as mdr_core.training.train, which returns a Trainer
FILES = ("weights", "findings")
PACKAGES = (
    "torch", "torchvision", "timm", "faiss-cpu", "pytorch-metric-learning", "numpy", "pillow"
)  # fmt: skip


class Record(TypedDict):
    """A stored run."""

    key: str
    config: dict[str, Any]
    history: list[dict[str, Any]]  # a row for each epoch evaluated
    content: str  # checksum of config and history
    provenance: dict[str, Any]
    files: dict[str, str]  # the path of each of FILES that is there


def dataset(config: Config) -> RetrievalDataset:
    """Return the images of a run."""
    return load_dataset(config.dataset, config.image_size)


def tensors(record: Record, name: str) -> dict[str, torch.Tensor] | None:
    """Return a run's ``weights`` or ``findings``; None where they are not there.

    ``weights``: the model's by name, MDR's under ``mdr.``. ``findings``: those of
    :func:`mdr_core.evaluation.epoch.findings`.
    """
    try:
        return load_file(record["files"][name]) if name in record["files"] else None
    except (OSError, SafetensorError) as problem:
        path = record["files"][name]
        raise StudyError(f"{path} cannot be read ({problem}): remove it or fetch it anew") from None


def find(config: Config, fingerprint: str, train: Train | None = None) -> Record | None:
    """Return a stored run; None where there is none.

    ``fingerprint``: of the data here. ``train``: who trains it, if not the study's loop. A
    StudyError says that it is there and cannot be read, or is not what its checksum says.
    """
    return read(runs_root() / local_name(config, fingerprint, train))


def read(folder: Path) -> Record | None:
    """Return the run of a folder; None where it holds none."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if sha256([record["config"], record["history"]]) != record["content"]:
            raise ValueError("it is not what its checksum says: remove its folder")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as problem:
        raise StudyError(f"{folder}/run.json cannot be read ({problem})") from None
    paths = {name: folder / f"{name}.safetensors" for name in FILES}
    there = {name: str(path) for name, path in paths.items() if path.exists()}
    return record | {"key": folder.name, "files": there}


def train(config: Config, train: Train | None = None) -> Record:
    """Return a run, trained now unless it is stored; arguments as of :func:`find`.

    Raises:
        StudyError: before the training, the folder cannot be written to; or what that raises.
    """
    data = dataset(config)
    if record := find(config, data.fingerprint, train):
        return record
    folder = runs_root() / local_name(config, data.fingerprint, train)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # of two processes, one trains it
            if not find(config, data.fingerprint, train):
                store(config, data, folder, train)
    except OSError as problem:  # a full disk, say
        why = f"{folder} cannot be written to ({problem.strerror or problem})"
        raise StudyError(f"{why}: make room, or set MDR_RUNS") from None
    return find(config, data.fingerprint, train)  # type: ignore[return-value]


def store(config: Config, data: RetrievalDataset, folder: Path, train: Train | None) -> None:
    """Train a run, or go on from its checkpoint, and write its folder."""
    from mdr_core import training
    from mdr_core.evaluation import epoch

    began, saved = time.perf_counter(), folder / "checkpoint.pt"
    state = torch.load(saved, map_location="cpu", weights_only=True) if saved.exists() else None
    trainer = (train or training.train)(
        config,
        data,
        checkpoint=state,
        after_epoch=lambda trainer: write(saved, trainer.checkpoint()),
    )
    weights = trainer.model.state_dict()
    weights |= {f"mdr.{name}": value for name, value in trainer.mdr.state_dict().items()}
    splits = [data.test] if data.gallery is None else [data.test, data.gallery]
    each = [(epoch.embed_split(config, trainer.model, s), s.labels) for s in splits]
    found = epoch.findings(epoch.RetrievalSet(*sum(each, ())))
    for name, values in zip(FILES, (weights, found), strict=True):
        content = save({key: value.contiguous() for key, value in values.items()})
        write(folder / f"{name}.safetensors", content)
    about = json.loads(json.dumps(config.to_dict()))
    jpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    commit = git("rev-parse", "HEAD").strip() + "+" * bool(git("status", "--porcelain", "mdr_core"))
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    made = {
        "data": data.fingerprint,
        "code": code_digest(),
        "commit": commit or None,
        "versions": {"python": platform.python_version(), "libjpeg": jpeg}
        | {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if config.device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_this_process": round(time.perf_counter() - began, 1),
    }
    record = {"config": about, "history": trainer.history, "provenance": made}
    record["content"] = sha256([about, trainer.history])
    write(folder / "run.json", json.dumps(record, indent=1))
    for left in (saved, *folder.glob(".*")):  # the latter of killed processes
        left.unlink(missing_ok=True)
