"""This machine's runs: a stored one is read, a killed one goes on from its last epoch.

<runs_root()>/<name>/run.json          config, history, provenance, checksum; written last
                     weights.safetensors, findings.safetensors
                     checkpoint.pt     after every epoch, while the run is under way

A folder from another machine may be copied there, with or without the large files. The name is of
the settings, the data and the code: after an edit of a file that computes numbers it is another.
A committed run is a published result and named by its settings, whoever has which copy of the data.
"""

import functools
import inspect
import json
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL.features
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mdr_core import training
from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.files import CHECKOUT, REPOSITORY, locked, runs_root, sha256, write
from mdr_core.losses import own

Train = Callable[..., Any]  # as mdr_core.training.train, which returns a Trainer
# A stored run: its key, config, history (a row for each epoch evaluated), content (the checksum of
# both), provenance, and files (the path of each of FILES that is there).
Record = dict[str, Any]
FILES = ("weights", "findings")
PACKAGES = "torch", "torchvision", "timm", "faiss-cpu", "pytorch-metric-learning", "numpy", "pillow"
ONLY_EVALUATE = ("train_images",)
ONLY_MDR = ("levels", "learn_levels", "momentum", "statistics", "level_weight", "decay_levels")
COMPUTE = (  # the files whose text enters the name of a local run
    "regularizer", "losses", "config", "training", "networks/*", "evaluation/*",
    "data/augmentation", "data/batches", "data/drawn_characters",
)  # fmt: skip


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


def read(folder: Path) -> Record | None:
    """Return the run of a folder; None where it holds none.

    A StudyError says that it is there and cannot be read, or is not what its checksum says.
    """
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
    """Return a run, trained now unless it is stored; ``train``: by whom, if not the study's loop.

    Raises:
        StudyError: before the training, the folder cannot be written to; or what that raises.
    """
    data = dataset(config)
    folder = runs_root() / local_name(config, data.fingerprint, train)
    if record := read(folder):
        return record
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # of two processes, one trains it
            if not read(folder):
                store(config, data, folder, train)
    except OSError as problem:  # a full disk, say
        why = f"{folder} cannot be written to ({problem.strerror or problem})"
        raise StudyError(f"{why}: make room, or set MDR_RUNS") from None
    return read(folder)  # type: ignore[return-value]


def store(config: Config, data: RetrievalDataset, folder: Path, train: Train | None) -> None:
    """Train a run, or go on from its checkpoint, and write its folder."""
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
    embed = functools.partial(epoch.embed_images, config, trainer.model)
    found = epoch.findings(epoch.queries(data).map(embed))
    for name, values in zip(FILES, (weights, found), strict=True):
        content = save({key: value.contiguous() for key, value in values.items()})
        write(folder / f"{name}.safetensors", content)
    about = json.loads(json.dumps(config.model_dump()))
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


def settings(config: Config) -> dict[str, Any]:
    """Return what decides a run's numbers: settings that differ from their defaults.

    Without those that only evaluate and, where λ is 0, without those of MDR.
    """
    left_out = ONLY_EVALUATE if config.mdr_weight else ONLY_EVALUATE + ONLY_MDR
    default, values = Config(), {k: v for k, v in config.model_dump().items() if k not in left_out}
    if Path(config.weights).is_file():
        values["weights"] = sha256(Path(config.weights).read_bytes())
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def committed_name(config: Config) -> str:
    """Return the name under which a committed run is found."""
    return sha256(settings(config))


def local_name(config: Config, fingerprint: str, train: Callable | None = None) -> str:
    """Return the name of a run's folder on this machine, 16 hexadecimal digits.

    The source of another ``train`` than the study's enters, and that of a loss of the reader's.
    """
    if train is not None and not hasattr(train, "source"):  # worker processes have no notebook
        train.source = source_of(train)  # type: ignore[attr-defined]
    text = getattr(train, "source", "")
    if ":" in config.loss:
        text += source_of(own(config.loss))
    return sha256([settings(config), fingerprint, code_digest(), text])[:16]


def source_of(function: Callable) -> str:
    """Return the text of a function's module; in a notebook its own, and of those it calls."""
    module: Any = inspect.getmodule(function)
    if getattr(module, "__file__", None):
        return inspect.getsource(module)
    texts, left = dict[Any, str](), list[Any]([function])
    while left:
        each = left.pop()
        if inspect.isfunction(each) and each.__module__ == function.__module__:
            if each not in texts:
                left += [each.__globals__.get(name) for name in each.__code__.co_names]
            texts[each] = inspect.getsource(each)
    return "".join(texts.values())


@functools.cache
def code_digest() -> str:
    """Return the digest of the present text of the files that compute numbers."""
    paths = sorted(path for name in COMPUTE for path in (CHECKOUT / "mdr_core").glob(f"{name}.py"))
    return sha256([path.read_text(encoding="utf-8") for path in paths])


@functools.cache
def edited() -> str:
    """Return a line on the files that compute numbers and differ from the commit; "": none does."""
    names = [f"mdr_core/{name}.py" for name in COMPUTE]
    changed = ", ".join(git("diff", "--name-only", "HEAD", "--", *names).split())
    line = f"{changed} differs from the commit: the committed runs were made without that edit"
    return f"{line}; STORED=0 trains with it" if changed else ""


def git(*args: str) -> str:
    """Return what git says in the study's folder; nothing where there is no git."""
    try:
        return subprocess.run(["git", *args], cwd=REPOSITORY, capture_output=True, text=True).stdout
    except OSError:
        return ""
