"""A stored run, and what made it."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import PIL.features
import torch
from safetensors.torch import load

from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.runs.names import code_digest, git

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
    files: dict[str, str]  # name -> checksum; weights, embeddings, findings: those that are kept
    folder: str  # where these files lie


def tensors(record: Record, name: str) -> dict[str, torch.Tensor] | None:
    """Return a run's ``weights``, ``embeddings`` or ``findings``; None where they are not kept.

    ``weights``: the model's by name, MDR's under ``mdr.``. ``embeddings``: of the final epoch,
    ``test`` (N, D) and ``test_labels`` (N,), and those of a gallery. ``findings``: those of
    :func:`mdr_core.evaluation.epoch.findings`.

    Raises:
        StudyError: the file is not the one that was stored.
    """
    path = file_of(record, name)
    if name not in record["files"] or not path.exists():
        return None
    content = path.read_bytes()
    if sha256(content) != record["files"][name]:
        raise StudyError(f"{path} has changed since it was stored: remove it, or fetch it anew")
    return load(content)


def file_of(record: Record, name: str) -> Path:
    """Return where a run's file lies: ``runs/KEY/NAME`` or, of a committed one, ``NAME/KEY``."""
    folder = Path(record["folder"])
    if folder.name == record["key"]:
        return folder / f"{name}.safetensors"
    return folder / name / f"{record['key']}.safetensors"


def provenance(device: str, fingerprint: str, seconds: float) -> dict[str, Any]:
    """Return what is stored of a run that was just trained: data, code, libraries, processor."""
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    jpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    commit = git("rev-parse", "HEAD").strip() + "+" * bool(git("status", "--porcelain", "mdr_core"))
    return {
        "data": fingerprint,
        "code": code_digest(),
        "commit": commit or None,
        "versions": {"python": platform.python_version(), "libjpeg": jpeg} | versions(),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_this_process": round(seconds, 1),
    }


def versions() -> dict[str, str]:
    """Return the versions of PACKAGES; conda may know one by another name."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
