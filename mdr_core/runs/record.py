"""A stored run, and what made it."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict

import PIL.features
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

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
    files: dict[str, str]  # weights, embeddings, findings: the path of each that is there


def tensors(record: Record, name: str) -> dict[str, torch.Tensor] | None:
    """Return a run's ``weights``, ``embeddings`` or ``findings``; None where they are not there.

    ``weights``: the model's by name, MDR's under ``mdr.``. ``embeddings``: of the final epoch,
    ``test`` (N, D) and ``test_labels`` (N,), and those of a gallery. ``findings``: those of
    :func:`mdr_core.evaluation.epoch.findings`.
    """
    if name not in record["files"]:
        return None
    try:
        return load_file(record["files"][name])
    except (OSError, SafetensorError) as problem:
        path = record["files"][name]
        raise StudyError(f"{path} cannot be read ({problem}): remove it or fetch it anew") from None


def provenance(device: str, fingerprint: str, seconds: float) -> dict[str, Any]:
    """Return what is stored of a run that was just trained: data, code, libraries, processor."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # conda may know it by another name
            versions[name] = "unknown"
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    jpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    commit = git("rev-parse", "HEAD").strip() + "+" * bool(git("status", "--porcelain", "mdr_core"))
    return {
        "data": fingerprint,
        "code": code_digest(),
        "commit": commit or None,
        "versions": versions | {"libjpeg": jpeg},
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_this_process": round(seconds, 1),
    }
