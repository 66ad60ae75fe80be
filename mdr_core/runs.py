"""The run store, and the only writer of runs. A run asked for again is read back; a killed one is resumed.

    <root>/<key>/run.json             config, history by epoch, provenance, checksums; written last, so its presence
                                      means that the run is complete
                 weights.safetensors, embeddings.safetensors
                 checkpoint.pt        after every epoch, while the run is under way

The key hashes the configuration, the data's fingerprint and the code that can change the numbers (its syntax tree,
so that comments and docstrings are free). Code that was edited and gives the same numbers shares the runs of the
version before: SAME_NUMBERS says so, and tests/test_same_numbers.py trains and compares.
"""

import ast
import functools
import hashlib
import json
import os
import platform
import re
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors

from mdr_core import data, profiles
from mdr_core.config import Config, from_dict
from mdr_core.distributed import ALONE, Share, current, packed
from mdr_core.errors import StudyError
from mdr_core.files import locked, write

CODE = ("regularizer", "losses", "sampling", "augmentation", "models", "bn_inception", "folding", "mechanism", "geometry",
        "training", "evaluation", "retrieval", "distributed")
SAME_NUMBERS = {  # code_version() -> the earlier version whose numbers it gives
    "b5cd326de4a81614aafeabec4d159cd546f464fc698ed9a7e22b1fc495cf7a3d":  # BN-Inception's weights are downloaded; several processes
        "f79ad9d07ea30b8987e5d680d6ce120b15538c69e9dec0dc44fae81c4a51822a",
}
FILES = ("weights.safetensors", "embeddings.safetensors")
PACKAGES = ("torch", "torchvision", "timm", "faiss-cpu", "pytorch-metric-learning", "numpy")


@functools.cache
def code_version() -> str:
    """A hash of the code that can change numbers, comments and docstrings left out."""
    digest = hashlib.sha256()
    for name in CODE:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=3)
def dataset(name: str, data_root: str | None, image_size: int) -> data.RetrievalDataset:
    return data.load(name, data_root, image_size)


def fillable(config: Config, data_root: str | None, processes: int = 1) -> int:
    """The configuration's batch size, or less where the dataset's training classes cannot fill it, or ``processes`` not share it."""
    counts = dataset(config.dataset, data_root, config.image_size).train.labels.bincount()
    batch = min(config.batch_size, int(counts.clamp(max=config.images_per_class).sum()))
    return batch - batch % processes


def key_of(config: Config, fingerprint: str) -> str:
    """16 hexadecimal digits that name a run.

    Settings at their default do not enter, so that a setting added later leaves the stored runs valid.
    """
    default = Config()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    if Path(config.weights).is_file():
        values["weights"] = hashlib.sha256(Path(config.weights).read_bytes()).hexdigest()
    elif config.weights == "classes":  # it starts from a run of its own, on drawn images as this one is
        values["weights"] = key_of(pretraining(config), "drawn_pretraining")
    code = SAME_NUMBERS.get(code_version(), code_version())
    text = json.dumps([values, fingerprint, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def set_aside(folder: Path, why: str) -> None:
    """Keep a run that cannot be trusted under another name, and say so."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.corrupt-{number}")).exists():
        number += 1
    os.replace(folder, aside)
    warnings.warn(f"stored run {folder.name} is corrupt ({why}): set aside as {aside.name}, training anew", stacklevel=3)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content_of(config: dict, history: list[dict]) -> str:
    """The checksum of what run.json itself holds."""
    return hashlib.sha256(json.dumps([config, history], sort_keys=True).encode()).hexdigest()


def stored(folder: Path, config: Config | None = None) -> dict | None:
    """A complete run's record, or None. One that is corrupt, or of another configuration than ``config``, is set aside."""
    if not (folder / "run.json").exists():
        return None
    try:
        record = json.loads((folder / "run.json").read_text())
        for name, expected in record["files"].items():
            if name not in FILES:
                raise ValueError(f"it names a file {name}")
            if checksum(folder / name) != expected:
                raise ValueError(f"{name} has changed")
        if content_of(record["config"], record["history"]) != record["content"]:
            raise ValueError("run.json has changed")
        if config is not None and from_dict(record["config"]) != config:
            raise ValueError("its configuration is another one")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, StudyError) as problem:
        set_aside(folder, str(problem))
        return None
    return record | {"key": folder.name}


def usable(folder: Path, config: Config, files: bool) -> dict | None:
    """:func:`stored`, where it has all that is needed: a restored record comes without weights and embeddings."""
    record = stored(folder, config)
    return record if record is not None and (record["files"] or not files) else None


def run(config: Config, root: str | Path = "runs", data_root: str | None = None, progress: bool = False,
        files: bool = False, share: Share | None = None) -> dict:
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
        return share.from_first() or trained(config, images, folder, root, data_root, progress, share)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            record = share.from_first(usable(folder, config, files))
            if record:
                return record
            folder.mkdir(exist_ok=True)
            return trained(config, images, folder, root, data_root, progress, share)
    except OSError as problem:  # a full disk, a folder that may not be written
        raise StudyError(f"run {folder.name} cannot be written to {root}: {problem.strerror or problem}; make room, or set output_root") from None


def restore(record: dict, root: Path) -> bool:
    """Store a record that comes without weights and embeddings, unless the run is there already.

    Raises:
        StudyError: it is not what its checksum says.
    """
    if not re.fullmatch("[0-9a-f]{16}", record["key"]):
        raise StudyError(f"{record['key']!r} is not the key of a run: fetch the file anew")
    if content_of(record["config"], record["history"]) != record["content"]:
        raise StudyError(f"run {record['key']} has changed since it was stored: fetch the file anew")
    folder = root / record["key"]
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / "run.json").exists():
            return False
        folder.mkdir(exist_ok=True)
        text = json.dumps({k: v for k, v in record.items() if k != "key"} | {"files": {}}, indent=1)
        write(folder / "run.json", text)
    return True


def pretraining(config: Config) -> Config:
    """The run whose backbone a run with ``weights="classes"`` starts from."""
    return profiles.PRETRAINING.replace(backbone=config.backbone)


def trained(config, images, folder, root, data_root, progress, share: Share = ALONE) -> dict:
    from mdr_core import evaluation, training  # here, since whoever only reads runs need not load every library

    began = time.time()
    backbone = None
    if config.weights == "classes":  # a small run of its own, the first process's alone
        if share.first:
            pretrained = load_weights(run(pretraining(config), root, data_root, share=ALONE), root)
            backbone = {k.removeprefix("backbone."): v for k, v in pretrained.items() if k.startswith("backbone.")}
        backbone = share.state_from_first(backbone)
    trainer = training.start(config, backbone)
    state = share.state_from_first(saved(folder) if share.first else None)
    try:
        if state is not None:
            trainer.load_state_dict(state)
    except Exception as problem:  # noqa: BLE001 - whatever a foreign file makes torch raise
        if share.first:
            unreadable(folder, problem)
        trainer = training.start(config, backbone)

    def save(trainer):
        if share.first:
            write(folder / "checkpoint.pt", packed(trainer.state_dict()))

    trainer = training.train(config, images, trainer, save, progress, share)
    embeddings = {}
    for name, split in {"test": images.test, "gallery": images.gallery}.items():
        if split is not None:
            embeddings |= {name: evaluation.embed_split(config, trainer.model, split, share), f"{name}_labels": split.labels}
    if not share.first:
        return share.from_first()
    weights = trainer.model.state_dict() | {f"mdr.{k}": v for k, v in trainer.mdr.state_dict().items()}
    write(folder / "weights.safetensors", safetensors({k: v.contiguous() for k, v in weights.items()}))
    write(folder / "embeddings.safetensors", safetensors(embeddings))
    values = json.loads(json.dumps(config.to_dict()))
    about = provenance(config, images) | {"processes": share.world, "seconds_this_process": round(time.time() - began, 1)}
    record = {
        "config": values,
        "history": trainer.history,
        "content": content_of(values, trainer.history),
        "provenance": about,
        "files": {name: checksum(folder / name) for name in FILES},
    }
    write(folder / "run.json", json.dumps(record, indent=1))
    for left in (folder / "checkpoint.pt", *folder.glob(".*")):  # the latter are halves of files, of processes killed
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


def provenance(config: Config, images: data.RetrievalDataset) -> dict:
    """What a run's numbers depend on beside its configuration."""
    gpu = config.device == "cuda"
    return {
        "data": images.fingerprint,
        "code": code_version(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def load_weights(record: dict, root: str | Path) -> dict[str, torch.Tensor]:
    """A stored run's weights: the model's by name, MDR's under ``mdr.``."""
    return load_file(Path(root) / record["key"] / "weights.safetensors")


def load_embeddings(record: dict, root: str | Path) -> dict[str, torch.Tensor]:
    """A stored run's final embeddings of its test images, ``test`` (N, D), and ``test_labels`` (N,)."""
    return load_file(Path(root) / record["key"] / "embeddings.safetensors")
