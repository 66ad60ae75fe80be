"""What a run's numbers depend on beside its configuration: data, code, libraries, processor."""

import functools
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import PIL.features
import torch

from mdr_core.files import REPOSITORY
from mdr_core.runs import identity

PACKAGES = (
    "torch", "torchvision", "timm", "faiss-cpu", "pytorch-metric-learning", "numpy", "pillow"
)  # fmt: skip


def provenance(device: str, fingerprint: str, processes: int, seconds: float) -> dict:
    """Return what is stored of a run that has just been trained.

    ``fingerprint`` is the dataset's, ``seconds`` are what this process spent on the run.
    """
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    jpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    packages = {name: installed(name) for name in PACKAGES}
    return {
        "data": fingerprint,
        "code": identity.code_hash(),
        "numbers": identity.number_version(),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **packages, "libjpeg": jpeg},
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": processes,
        "seconds_this_process": round(seconds, 1),
    }


def installed(name: str) -> str:
    """Return a package's version; conda may know it by another name."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def commit() -> str | None:
    """Return the study's git commit, with "+" where mdr_core differs from it; None outside git."""
    if not (REPOSITORY / ".git").exists():
        return None
    git = functools.partial(
        subprocess.check_output, cwd=REPOSITORY, stderr=subprocess.DEVNULL, text=True
    )
    try:
        edited = git(["git", "status", "--porcelain", "mdr_core"])
        return git(["git", "rev-parse", "HEAD"]).strip() + "+" * bool(edited)
    except (OSError, subprocess.CalledProcessError):
        return None
