"""The run store, and the only writer of runs. A run asked for again is read back; a killed one is resumed.

    <root>/<key>/run.json             config, history by epoch, provenance, checksums; written last, so its presence
                                      means that the run is complete
                 weights.safetensors, embeddings.safetensors
                 findings.safetensors what it found on the test images (evaluation.findings): small, and kept when the others are not
                 checkpoint.pt        after every epoch, while the run is under way

The key names configuration, data and code: see :mod:`mdr_core.runs.identity`.
"""

import functools
import json
import os
import platform
import re
import subprocess
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import PIL.features
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors

from mdr_core.config import Config, from_dict, pretraining
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.data.fingerprint import sha256
from mdr_core.distributed import ALONE, Share, current
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, locked, write
from mdr_core.runs import identity
from mdr_core.runs.identity import key_of

WEIGHTS, EMBEDDINGS, FINDINGS = FILES = (
    "weights.safetensors",
    "embeddings.safetensors",
    "findings.safetensors",
)
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "faiss-cpu",
    "pytorch-metric-learning",
    "numpy",
    "pillow",
)


@functools.lru_cache(maxsize=3)
def dataset(name: str, data_root: str | None, image_size: int) -> RetrievalDataset:
    return load_dataset(name, data_root, image_size)


def fillable(config: Config, data_root: str | None, processes: int = 1) -> int:
    """The configuration's batch size, or less where the dataset's training classes cannot fill it, or ``processes`` not share it."""
    counts = dataset(config.dataset, data_root, config.image_size).train.labels.bincount()
    batch = min(config.batch_size, int(counts.clamp(max=config.images_per_class).sum()))
    return batch - batch % processes


def set_aside(folder: Path, why: str) -> None:
    """Keep a run that cannot be trusted under another name, and say so."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.corrupt-{number}")).exists():
        number += 1
    os.replace(folder, aside)
    warnings.warn(
        f"stored run {folder.name} is corrupt ({why}): set aside as {aside.name}, training anew",
        stacklevel=3,
    )


def content_of(config: dict, history: list[dict]) -> str:
    """The checksum of what run.json itself holds."""
    return sha256([config, history])


def stored(folder: Path, config: Config | None = None) -> dict | None:
    """A complete run's record, or None. One that is corrupt, or of another configuration than ``config``, is set aside."""
    if not (folder / "run.json").exists():
        return None
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for name, expected in record["files"].items():
            if name not in FILES:
                raise ValueError(f"it names a file {name}")
            if sha256((folder / name).read_bytes()) != expected:
                raise ValueError(f"{name} has changed")
        if content_of(record["config"], record["history"]) != record["content"]:
            raise ValueError("run.json has changed")
        if config is not None and from_dict(record["config"]) != config:
            raise ValueError("its configuration is another one")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
        StudyError,
    ) as problem:
        set_aside(folder, str(problem))
        return None
    return record | {"key": folder.name}


def usable(folder: Path, config: Config, files: bool) -> dict | None:
    """:func:`stored`, where it has all that is needed: a restored record comes without weights and embeddings."""
    record = stored(folder, config)
    return record if record is not None and (WEIGHTS in record["files"] or not files) else None


def run(
    config: Config,
    root: str | Path = "runs",
    data_root: str | None = None,
    progress: bool = False,
    files: bool = False,
    share: Share | None = None,
) -> dict:
    """One run's record, trained now unless it is stored.

    Args:
        files: its weights and embeddings are needed too; a record that was restored without them is trained anew.
        share: this process's, where several train together (by default those that torchrun started); each calls this,
            and the first one alone reads and writes the store.

    Returns:
        ``{"key", "config", "history", "provenance", "files"}``.
    """
    root, share = Path(root), share or current()
    images = dataset(config.dataset, data_root and str(data_root), config.image_size)
    folder = root / key_of(config, images.fingerprint)
    if not share.first:
        return share.from_first() or trained(
            config, images, folder, root, data_root, progress, share
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            record = share.from_first(usable(folder, config, files))
            if record:
                return record
            folder.mkdir(exist_ok=True)
            return trained(config, images, folder, root, data_root, progress, share)
    except OSError as problem:  # a full disk, a folder that may not be written
        raise StudyError(
            f"run {folder.name} cannot be written to {root}: {problem.strerror or problem}; make room, or set output_root"
        ) from None


def restore(record: dict, root: Path, findings: Path) -> None:
    """Store a record that comes without weights and embeddings, unless the run is there already.

    Args:
        findings: the folder that holds KEY.safetensors, where the record names the checksum of one.

    Raises:
        StudyError: it is not what its checksum says.
    """
    if not re.fullmatch("[0-9a-f]{16}", record["key"]):
        raise StudyError(f"{record['key']!r} is not the key of a run: fetch the file anew")
    if content_of(record["config"], record["history"]) != record["content"]:
        raise StudyError(
            f"run {record['key']} has changed since it was stored: fetch the file anew"
        )
    files, content, source = {}, b"", findings / f"{record['key']}.safetensors"
    if record["findings"]:
        if not source.is_file() or sha256(content := source.read_bytes()) != record["findings"]:
            raise StudyError(
                f"{source} is absent or has changed since it was stored: fetch it anew"
            )
        files[FINDINGS] = record["findings"]
    folder = root / record["key"]
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / "run.json").exists():
            return
        folder.mkdir(exist_ok=True)
        if files:
            write(folder / FINDINGS, content)
        write(
            folder / "run.json",
            json.dumps(
                {k: v for k, v in record.items() if k not in ("key", "findings")}
                | {"files": files},
                indent=1,
            ),
        )


def trained(config, images, folder, root, data_root, progress, share: Share = ALONE) -> dict:
    from mdr_core import training
    from mdr_core.evaluation import (
        epoch,
    )  # here, since whoever only reads runs need not load every library

    began = time.time()
    backbone = None
    if config.weights == "classes":  # a small run of its own, the first process's alone
        if share.first:
            pretrained = load_weights(
                run(pretraining(config), root, data_root, files=True, share=ALONE), root
            )
            backbone = {
                k.removeprefix("backbone."): v
                for k, v in pretrained.items()
                if k.startswith("backbone.")
            }
        backbone = share.from_first(backbone)
    trainer = training.start(config, backbone)
    state = share.from_first(saved(folder) if share.first else None)
    try:
        if state is not None:
            trainer.resume(state)
    except Exception as problem:  # noqa: BLE001 - whatever a foreign file makes torch raise
        if share.first:
            unreadable(folder, problem)
        trainer = training.start(config, backbone)

    def save(trainer):
        if share.first:
            write(folder / "checkpoint.pt", trainer.checkpoint())

    trainer = training.train(config, images, trainer, save, progress, share)
    embeddings = {}
    for name, split in {"test": images.test, "gallery": images.gallery}.items():
        if split is not None:
            embeddings |= {
                name: epoch.embed_split(config, trainer.model, split, share),
                f"{name}_labels": split.labels,
            }
    if not share.first:
        return share.from_first()
    weights = trainer.model.state_dict() | {
        f"mdr.{k}": v for k, v in trainer.mdr.state_dict().items()
    }
    write(folder / WEIGHTS, safetensors({k: v.contiguous() for k, v in weights.items()}))
    write(folder / EMBEDDINGS, safetensors(embeddings))
    write(folder / FINDINGS, safetensors(epoch.findings(epoch.RetrievalSet(*embeddings.values()))))
    values = json.loads(json.dumps(config.to_dict()))
    about = provenance(config, images) | {
        "processes": share.world,
        "seconds_this_process": round(time.time() - began, 1),
    }
    record = {
        "config": values,
        "history": trainer.history,
        "content": content_of(values, trainer.history),
        "provenance": about,
        "files": {name: sha256((folder / name).read_bytes()) for name in FILES},
    }
    write(folder / "run.json", json.dumps(record, indent=1))
    for left in (
        folder / "checkpoint.pt",
        *folder.glob(".*"),
    ):  # the latter are halves of files, of processes killed
        left.unlink(missing_ok=True)
    return share.from_first(record | {"key": folder.name})


def saved(folder: Path) -> dict | None:
    """The state after a killed run's last epoch, if there is one that can be read."""
    try:
        return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as problem:  # noqa: BLE001 - whatever a torn file makes torch raise
        return unreadable(folder, problem)


def unreadable(folder: Path, problem: Exception) -> None:
    set_aside(folder, f"its checkpoint cannot be read: {problem}".splitlines()[0])
    folder.mkdir()


def provenance(config: Config, images: RetrievalDataset) -> dict:
    """What a run's numbers depend on beside its configuration."""
    gpu = config.device == "cuda"
    jpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    return {
        "data": images.fingerprint,
        "code": identity.code_version(),
        "numbers": identity.numbers(),
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in PACKAGES}
        | {"libjpeg": jpeg},
        "device": torch.cuda.get_device_name()
        if gpu
        else f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def commit() -> str | None:
    """The git commit of the study, with "+" where files of mdr_core differ from it; None where it is not a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        own = Path(git("rev-parse", "--show-toplevel")) == REPOSITORY
        return (
            git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "mdr_core"))
            if own
            else None
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def load_weights(record: dict, root: str | Path) -> dict[str, torch.Tensor]:
    """A stored run's weights: the model's by name, MDR's under ``mdr.``."""
    return load_file(Path(root) / record["key"] / WEIGHTS)


def load_embeddings(record: dict, root: str | Path) -> dict[str, torch.Tensor]:
    """A stored run's final embeddings of its test images, ``test`` (N, D), and ``test_labels`` (N,)."""
    return load_file(Path(root) / record["key"] / EMBEDDINGS)


def load_findings(record: dict, root: str | Path) -> dict[str, torch.Tensor] | None:
    """What a stored run found on its test images, as :func:`mdr_core.evaluation.epoch.findings` has it; None where it was not recorded."""
    return load_file(Path(root) / record["key"] / FINDINGS) if FINDINGS in record["files"] else None
