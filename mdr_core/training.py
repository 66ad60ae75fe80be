"""The training loop, the one that every experiment uses, on CPU and GPU.

    for every epoch:  draw batches -> crop -> embed -> L_metric + lambda L_MDR + nu sum s^2 -> Adam;  then judge

Nothing inside an epoch waits for the device (what a library's loss does inside is its own affair): indices, crops, triplets
and statistics are computed there, and the losses are read back once, at the epoch's end. On several processes (mdr_core.distributed) each embeds its
share of the batch, and all take the step that one would take.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mdr_core import losses
from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.evaluation.epoch import crops, home, judge, spread, without_by_class
from mdr_core.networks import backbones
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR


@dataclass
class Trainer:
    """Everything that a run changes while it trains, and so everything that a resumed run needs."""

    model: EmbeddingNet
    mdr: MDR
    optimizer: torch.optim.Optimizer
    host: torch.Generator  # draws the batches
    device: torch.Generator  # draws crops, flips and negatives
    history: list[dict]  # a row per epoch judged, the first (epoch 0) before any training

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "mdr": self.mdr.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "host": self.host.get_state(),
            "device": self.device.get_state(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.mdr.load_state_dict(state["mdr"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.host.set_state(state["host"])
        self.device.set_state(state["device"])
        self.history = state["history"]


def start(config: Config, backbone_state: dict[str, Tensor] | None = None) -> Trainer:
    """A trainer before its first step; every random number it will use derives from ``config.seed``.

    Args:
        backbone_state: the backbone's weights where ``config.weights`` is ``"classes"``.
    """
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudyError("device is 'cuda', but torch finds no GPU here: set device to 'cpu'")
    if device.type == "cuda" and int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count():
        raise StudyError(
            f"there are {torch.cuda.device_count()} GPUs here, fewer than processes: start one process for each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = backbones.backbone(
            config.backbone, "random" if backbone_state is not None else config.weights
        )
        if backbone_state is not None:
            backbone.load_state_dict(backbone_state)
        model = EmbeddingNet(backbone, config.dim, config.normalization, config.freeze_batch_norm)
    model = model.to(device, memory_format=torch.channels_last)
    mdr = MDR(
        config.levels, config.momentum, config.learn_levels, config.statistics, check_finite=False
    ).to(device)
    groups = [{"params": list(model.parameters()), "weight_decay": config.weight_decay}]
    if config.learn_levels:
        decay = config.weight_decay if config.decay_levels else 0.0
        groups.append({"params": [mdr.levels], "weight_decay": decay})
    return Trainer(
        model=model,
        mdr=mdr,
        optimizer=torch.optim.Adam(groups, lr=config.lr, fused=True),
        host=torch.Generator().manual_seed(config.seed),
        device=torch.Generator(device).manual_seed(config.seed),
        history=[],
    )


def train(
    config: Config,
    data: RetrievalDataset,
    trainer: Trainer,
    after_epoch: Callable[[Trainer], None] = lambda trainer: None,
    progress: bool = False,
    share: Share = ALONE,
) -> Trainer:
    """Train from wherever ``trainer`` stands to the last epoch.

    Args:
        data: its training split is trained on; its test split is judged after every epoch, and so
            are ``config.hold_out`` training classes, if any, that are kept from training.
        after_epoch: called with the trainer after every epoch has been judged; the run store saves it there.
        progress: show a bar over the epochs.
        share: this process's, where several train the run together; each must be given the same trainer.

    Raises:
        StudyError: the loss became NaN or Inf (epoch, step and settings are named), a batch cannot be filled, or
            cannot be shared evenly.
    """
    device = torch.device(config.device)
    if share.world > 1 and not config.freeze_batch_norm:
        raise StudyError(
            "freeze_batch_norm must be True on several processes: each would see its own statistics"
        )
    share.rows(config.batch_size)
    whole, data = data, data.hold_out(config.hold_out) if config.hold_out else data
    # Images lie on the device as bytes, and are cropped there. Crops to judge never change: they are made once.
    images, labels = (
        data.train.images.to(home(data.train.images.nbytes, device)),
        data.train.labels.to(device),
    )
    judged = {"test": crops(config, whole.test, device, share)}
    if whole.gallery is not None:
        judged["test"] += crops(config, whole.gallery, device, share)
    if config.hold_out:
        judged["held_out"] = crops(config, data.test, device, share)
    judged["train"] = crops(config, spread(data.train, config), device, share)
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    loss = losses.make(config.loss, config.margin, config.images_per_class).to(device)
    if list(loss.parameters()):
        raise StudyError(
            f"loss {config.loss!r} has parameters of its own, which this loop does not train"
        )
    probe = crops(
        config,
        data.train.of_images(batches.draw(1, torch.Generator().manual_seed(0))[0]),
        device,
        share,
    )

    if not trainer.history:
        trainer.history.append(
            {"epoch": 0, "seconds": 0.0}
            | judge(config, trainer.model, trainer.mdr, judged, probe, share)
        )
        after_epoch(trainer)
    bar = tqdm(
        total=config.epochs,
        initial=trainer.history[-1]["epoch"],
        disable=not (progress and share.first),
        unit="epoch",
    )
    for epoch in range(trainer.history[-1]["epoch"] + 1, config.epochs + 1):
        began = time.perf_counter()
        rate = learning_rate(config, epoch)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        terms = run_epoch(
            config,
            trainer,
            loss,
            images,
            labels,
            batches.draw(config.iterations, trainer.host),
            share,
        )
        bad = (~torch.isfinite(terms).all(dim=1)).nonzero().flatten()
        if len(bad):
            raise StudyError(
                f"the loss became NaN or Inf in epoch {epoch}, step {int(bad[0]) + 1}, with lr {rate:g}, loss "
                f"{config.loss}, mdr_weight {config.mdr_weight:g}, seed {config.seed}: lower lr or mdr_weight"
            )
        means = dict(
            zip(("loss", "metric_loss", "mdr_loss"), terms.mean(dim=0).tolist(), strict=True)
        )
        row = (
            {"epoch": epoch, "lr": rate}
            | means
            | mdr_figures(trainer.mdr)
            | {"train_seconds": time.perf_counter() - began}
        )
        row |= judge(config, trainer.model, trainer.mdr, judged, probe, share)
        trainer.history = with_by_class(
            [*trainer.history, row | {"seconds": time.perf_counter() - began}]
        )
        after_epoch(trainer)
        bar.update()
    bar.close()
    return trainer


def run_epoch(config, trainer, loss, images, labels, indices, share: Share = ALONE) -> Tensor:
    """One epoch's steps.

    Args:
        images: (N, 3, S, S) uint8, on the device or the host; labels: (N,), on the device.
        indices: (steps, batch) into them.
        share: this process's rows of every batch.

    Returns:
        (steps, 3) on the CPU: total, metric and MDR loss of each step.
    """
    device = labels.device
    terms = torch.zeros(len(indices), 3, device=device)
    rows = share.rows(indices.shape[1])
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    trainer.model.train()
    trainer.mdr.train()
    for step, (index, own) in enumerate(
        zip(indices.to(device), fetched(images, indices[:, rows], device), strict=True)
    ):
        if config.augment:
            x = augmentation.random_resized_crop(
                own, config.crop, trainer.device, config.flip, rows, indices.shape[1]
            )
        else:
            x = augmentation.center_crop(own, config.resize, config.crop)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embeddings = trainer.model(x.contiguous(memory_format=torch.channels_last), share)
        metric = loss(embeddings, labels[index], trainer.device, share)
        total = metric
        if config.mdr_weight > 0:
            regularization = trainer.mdr(embeddings, rows, share.total)
            total = metric + config.mdr_weight * regularization
            total = total + config.level_weight * trainer.mdr.levels.square().sum() / share.world
            terms[step, 2] = regularization.detach()
        trainer.optimizer.zero_grad()
        total.backward()
        share.add_gradients(parameters)
        trainer.optimizer.step()
        terms[step, 0], terms[step, 1] = total.detach(), metric.detach()
    return share.total(terms).cpu()


def fetched(images: Tensor, indices: Tensor, device: torch.device) -> Iterator[Tensor]:
    """The images of each batch, on the device. From the host they come through pinned memory on a stream of their own, while
    the device is at work on the batch before.

    Args:
        images: (N, 3, S, S), on the device or the host.
        indices: (steps, R) into them.
    """
    if images.device.type == device.type:
        yield from (images[index] for index in indices.to(device))
        return
    sending, working = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    for index in indices:
        with torch.cuda.stream(sending):
            batch = images[index].pin_memory().to(device, non_blocking=True)
        working.wait_stream(sending)
        batch.record_stream(working)
        yield batch


def learning_rate(config: Config, epoch: int) -> float:
    """Of an epoch counted from 1: lr times lr_factor for every share of the epochs that lies behind it; the first has all of lr."""
    behind = sum(epoch - 1 >= max(round(drop * config.epochs), 1) for drop in config.lr_drops)
    return config.lr * config.lr_factor**behind


def with_by_class(history: list[dict]) -> list[dict]:
    """The numbers of each test class in the last and in the best trained epoch alone, since they take most of a row's room."""
    best = max((row for row in history if row["epoch"] > 0), key=lambda row: row["test_recall@1"])
    return [row if row is best or row is history[-1] else without_by_class(row) for row in history]


def mdr_figures(mdr: MDR) -> dict[str, float]:
    """Levels and running statistics, as an epoch's end leaves them."""
    levels = {f"level_{i}": value for i, value in enumerate(mdr.levels.tolist())}
    return levels | {"running_mean": mdr.running_mean.item(), "running_std": mdr.running_std.item()}
