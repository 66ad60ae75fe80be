"""The run store, and the only writer of runs. A stored run is read; a killed one is resumed.

<root>/<key>/run.json              config, history by epoch, provenance, checksums; written last, so
                                   its presence means that the run is complete
             weights.safetensors   of the model, and of MDR
             embeddings.safetensors
             findings.safetensors  what it found on the test images: small, and archived
             checkpoint.pt         after every epoch, while the run is under way

The key names configuration, data and code: see :mod:`mdr_core.runs.identity`.
"""

import functools
import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors

from mdr_core.config import Config, from_dict, pretraining
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.data.fingerprint import sha256
from mdr_core.distributed import ALONE, Share, current
from mdr_core.errors import StudyError
from mdr_core.files import check_writable, locked, write
from mdr_core.runs.identity import key_of
from mdr_core.runs.provenance import provenance

if TYPE_CHECKING:  # whoever only reads runs need not load every library
    from mdr_core.training import Trainer

WEIGHTS, EMBEDDINGS = "weights.safetensors", "embeddings.safetensors"
FINDINGS = "findings.safetensors"
FILES = (WEIGHTS, EMBEDDINGS, FINDINGS)
BAD = (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, StudyError)
cached_dataset = functools.lru_cache(maxsize=3)(load_dataset)


class Record(TypedDict):
    """A stored run: its folder's name, and what run.json holds."""

    key: str
    config: dict[str, Any]
    history: list[dict[str, Any]]  # a row for each epoch evaluated
    content: str  # checksum of config and history
    provenance: dict[str, Any]
    files: dict[str, str]  # checksum of each file; none where a record was restored alone


class RunStore:
    """The runs in the folder ``root``; ``data_root`` is where the datasets lie."""

    def __init__(self, root: str | Path = "runs", data_root: str | Path | None = None):
        self.root = Path(root).resolve()  # for workers, whose working directory may be another
        self.data_root = str(Path(data_root).resolve()) if data_root else None

    def dataset(self, config: Config) -> RetrievalDataset:
        """Return the images of a run; the last three datasets stay in memory."""
        return cached_dataset(config.dataset, self.data_root, config.image_size)

    def batch_size(self, config: Config, processes: int = 1) -> int:
        """Return ``config.batch_size``, or what the training classes fill and processes share."""
        counts = self.dataset(config).train.labels.bincount()
        batch = min(config.batch_size, int(counts.clamp(max=config.images_per_class).sum()))
        return batch - batch % processes or batch  # more processes than images: training refuses

    def folder(self, config: Config) -> Path:
        """Return the run's folder, whether it exists or not."""
        return self.root / key_of(config, self.dataset(config).fingerprint)

    def read(self, config: Config, files: bool = False) -> Record | None:
        """Return a stored run's record; None where it is not stored, or lacks needed ``files``."""
        folder = self.folder(config)
        if not os.path.exists(folder / "run.json"):
            return None
        try:
            with locked(folder):
                return stored(folder, config, files)
        except OSError:  # a lock cannot be made in a store that is read-only, and is not needed
            return stored(folder, config, files)

    def run(self, config: Config, files: bool = False, share: Share | None = None) -> Record:
        """Return a run's record; the run is trained now unless it is stored.

        Args:
            files: its weights and embeddings are needed too. Restored records lack them: such a
                run is trained anew.
            share: this process's, where several train the run together, by default those that
                torchrun started. Each calls this; the first alone reads and writes the store.

        Raises:
            StudyError: before the training, the store cannot be written to; or what that raises.
        """
        share = share or current()
        with warnings.catch_warnings():  # :func:`mdr_core.runs.grids.records` gives this one
            warnings.filterwarnings("ignore", message=".*classes and .* images here, officially")
            folder = self.folder(config)
        if not share.first:
            return share.from_first() or self._train(config, folder, share)
        if (record := self.read(config, files)) is not None:
            return share.from_first(record)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                record = share.from_first(stored(folder, config, files))
                return record or self._train(config, folder, share)
        except OSError as problem:  # a full disk, or no permission to write
            raise StudyError(
                f"run {folder.name} cannot be written to {self.root}: "
                f"{problem.strerror or problem}; make room, or set output_root"
            ) from None

    def _train(self, config: Config, folder: Path, share: Share) -> Record:
        from mdr_core import drop_in, training
        from mdr_core.evaluation import epoch

        def save(trainer: "Trainer") -> None:
            if share.first:
                write(folder / "checkpoint.pt", trainer.checkpoint())

        began, images = time.time(), self.dataset(config)
        if share.first and folder.exists():  # somebody else's, maybe
            check_writable(folder, "output_root")
        trainer = self._started(config, images, folder, share)
        if share.first:
            folder.mkdir(exist_ok=True)
        loop = training.train if config.loop == "study" else drop_in.train
        trainer = loop(config, images, trainer, save, share=share)
        embeddings: dict[str, torch.Tensor] = {}
        for name, split in {"test": images.test, "gallery": images.gallery}.items():
            if split is not None:
                embeddings[name] = epoch.embed_split(config, trainer.model, split)
                embeddings[f"{name}_labels"] = split.labels
        if not share.first:
            return share.from_first()
        weights = trainer.model.state_dict()
        weights |= {f"mdr.{name}": value for name, value in trainer.mdr.state_dict().items()}
        write(folder / WEIGHTS, safetensors({k: v.contiguous() for k, v in weights.items()}))
        write(folder / EMBEDDINGS, safetensors(embeddings))
        found = epoch.findings(epoch.RetrievalSet(*embeddings.values()))
        write(folder / FINDINGS, safetensors(found))
        seconds = time.time() - began
        values = json.loads(json.dumps(config.to_dict()))
        record = {
            "config": values,
            "history": trainer.history,
            "content": content_of(values, trainer.history),
            "provenance": provenance(config.device, images.fingerprint, share.world, seconds),
            "files": {name: sha256((folder / name).read_bytes()) for name in FILES},
        }
        write(folder / "run.json", json.dumps(record, indent=1))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        for half in folder.glob(".*"):  # of files that killed processes were writing
            half.unlink()
        return share.from_first(record | {"key": folder.name})

    def _started(
        self, config: Config, images: RetrievalDataset, folder: Path, share: Share
    ) -> "Trainer":
        """Return a trainer where the run's last epoch left it, if one was saved; else a new one."""
        from mdr_core import drop_in, training

        def start() -> "Trainer":
            if config.loop == "library":
                return drop_in.start(config, images, backbone)
            return training.start(config, backbone)

        backbone: dict[str, torch.Tensor] | None = None
        if config.weights == "classes" and share.first:  # a small run's: the first trains it
            weights = self.weights(self.run(pretraining(config), files=True, share=ALONE))
            own = [name for name in weights if name.startswith("backbone.")]
            backbone = {name.removeprefix("backbone."): weights[name] for name in own}
        backbone = share.from_first(backbone)
        trainer = start()
        state = share.from_first(checkpoint(folder) if share.first else None)
        try:
            if state is not None:
                trainer.resume(state)
        except (MemoryError, torch.OutOfMemoryError):  # for want of room now: the state stays
            raise
        except Exception as problem:  # noqa: BLE001 - whatever a foreign state makes torch raise
            if share.first:
                set_aside(folder, f"its checkpoint cannot be read: {problem}")
            trainer = start()
        return trainer

    def restore(self, record: dict[str, Any], folder: Path) -> bool:
        """Store a record that was archived, unless the run is stored; a stored one stays.

        Returns False where it has other numbers.

        Args:
            record: run.json's content with ``key``, without ``files``. Where ``findings`` is a
                checksum, it is that of findings/KEY.safetensors; ``weights`` likewise.
            folder: holds these files.

        Raises:
            StudyError: record or file is not what its checksum says.
        """
        key, files = record["key"], {}
        if not re.fullmatch("[0-9a-f]{16}", key):
            raise StudyError(f"{key!r} is not the key of a run: fetch the file anew")
        if content_of(record["config"], record["history"]) != record["content"]:
            raise StudyError(f"run {key} has changed since it was stored: fetch the file anew")
        for name in ("findings", "weights"):
            if not record.get(name):
                continue
            source = folder / name / f"{key}.safetensors"
            content = source.read_bytes() if source.is_file() else b""
            if sha256(content) != record[name]:
                raise StudyError(
                    f"{source} is absent or has changed since it was stored: fetch it anew"
                )
            files[f"{name}.safetensors"] = content
        self.root.mkdir(parents=True, exist_ok=True)
        run = self.root / key
        with locked(run):
            if (there := stored(run)) is not None:
                return there["content"] == record["content"]
            run.mkdir(exist_ok=True)
            for name, content in files.items():
                write(run / name, content)
            values = {k: v for k, v in record.items() if k not in ("key", "findings", "weights")}
            values["files"] = {name: sha256(content) for name, content in files.items()}
            write(run / "run.json", json.dumps(values, indent=1))
        return True

    def weights(self, record: Record) -> dict[str, torch.Tensor]:
        """Return a run's weights: the model's by name, MDR's under ``mdr.``."""
        return load_file(self.root / record["key"] / WEIGHTS)

    def embeddings(self, record: Record) -> dict[str, torch.Tensor]:
        """Return final embeddings ``test`` (N, D), ``test_labels`` (N,); of a gallery likewise."""
        return load_file(self.root / record["key"] / EMBEDDINGS)

    def findings(self, record: Record) -> dict[str, torch.Tensor] | None:
        """Return what :func:`mdr_core.evaluation.epoch.findings` gave; None if not recorded."""
        path = self.root / record["key"] / FINDINGS
        return load_file(path) if FINDINGS in record["files"] else None


def stored(folder: Path, config: Config | None = None, files: bool = False) -> Record | None:
    """Return a complete run's record, or None; ``files``: only one with weights and embeddings.

    A run that is corrupt, or of another configuration than ``config``, is set aside. One that this
    user may not read is a StudyError.
    """
    if not os.path.exists(folder / "run.json"):
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
    except PermissionError as problem:
        raise StudyError(f"{problem}: let it be read, or set output_root") from None
    except BAD as problem:  # what reading somebody else's file may raise
        set_aside(folder, str(problem))
        return None
    lacks = files and not {WEIGHTS, EMBEDDINGS} <= record["files"].keys()
    return None if lacks else record | {"key": folder.name}


def content_of(config: dict, history: list[dict]) -> str:
    """Return the checksum of what run.json itself holds."""
    return sha256([config, history])


def checkpoint(folder: Path) -> dict | None:
    """Return a killed run's state after its last epoch, if there is one that can be read."""
    try:
        return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001 - whatever a torn file makes torch raise
        set_aside(folder, f"its checkpoint cannot be read: {problem}")
        return None


def set_aside(folder: Path, why: str) -> None:
    """Keep a run that cannot be trusted under another name, and warn of it."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.corrupt-{number}")).exists():
        number += 1
    why = why.partition("\n")[0]
    done = f"set aside as {aside.name}, training anew"
    try:
        os.replace(folder, aside)
    except OSError as problem:
        done = f"it stays in {folder.parent}, which cannot be changed ({problem.strerror})"
    warnings.warn(f"stored run {folder.name} is corrupt ({why}): {done}", stacklevel=3)
