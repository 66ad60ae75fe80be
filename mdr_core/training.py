"""The training loop of every experiment, on CPU and GPU.

for each epoch:  for each batch:  crop -> embed -> L_metric + lambda L_MDR + nu sum s^2 -> Adam
                 evaluate
"""

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mdr_core import losses
from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch as evaluation
from mdr_core.networks.backbones import backbone
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR

Row = dict[str, Any]
WITH_STATE, GENERATORS = ("model", "mdr", "loss", "optimizer"), ("batch_generator", "generator")


@dataclass
class Trainer:
    """What a run changes while it trains, and so what a resumed run needs."""

    model: EmbeddingNet
    mdr: MDR
    optimizer: torch.optim.Optimizer
    batch_generator: Generator  # on the CPU: draws the batches
    generator: Generator  # on the device: draws crops, flips and negatives
    loss: nn.Module = field(default_factory=nn.Identity)  # another loop's, which may learn
    history: list[Row] = field(default_factory=list)  # a row per epoch; 0 is before any training

    def checkpoint(self) -> bytes:
        """Return the content of a checkpoint file."""
        content = io.BytesIO()
        state: Row = {name: getattr(self, name).state_dict() for name in WITH_STATE}
        state |= {name: getattr(self, name).get_state() for name in GENERATORS}
        torch.save(state | {"history": self.history}, content)
        return content.getvalue()

    def resume(self, checkpoint: Row) -> None:
        """Go on from a loaded checkpoint."""
        for name in WITH_STATE:
            getattr(self, name).load_state_dict(checkpoint[name])
        for name in GENERATORS:
            getattr(self, name).set_state(checkpoint[name])
        self.history = checkpoint["history"]


def start(config: Config) -> Trainer:
    """Return a trainer before its first step, seeded."""
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudyError("device is 'cuda', but torch finds no GPU here: set device to 'cpu'")
    with seeded(config.seed, config.device):
        net = backbone(config.backbone, config.weights)
        model = EmbeddingNet(net, config.dim, config.normalization, config.freeze_batch_norm)
    model = model.to(device).to(memory_format=torch.channels_last)
    mdr = MDR(config.levels, config.momentum, config.learn_levels, config.statistics).to(device)
    groups: list[Row] = [{"params": [*model.parameters()], "weight_decay": config.weight_decay}]
    if config.learn_levels:
        decay = config.weight_decay if config.decay_levels else 0.0
        groups.append({"params": [mdr.levels], "weight_decay": decay})
    optimizer = torch.optim.Adam(groups, lr=config.lr, fused=True)
    host, own = (Generator(place).manual_seed(config.seed) for place in ("cpu", device))
    return Trainer(model, mdr, optimizer, host, own)


def train(
    config: Config,
    data: RetrievalDataset,
    checkpoint: Row | None = None,
    after_epoch: Callable[[Trainer], object] = lambda trainer: None,
) -> Trainer:
    """Train a run to its last epoch; a resumed one ends like the uninterrupted, to the same digits.

    ``checkpoint``: :meth:`Trainer.checkpoint`, loaded with ``weights_only=True``. ``after_epoch``
    is called with the trainer after every evaluation, the one before training too, to save it.
    StudyError: the loss became NaN or Inf, a batch cannot be filled, an unknown loss.
    """
    whole, data = data, data.hold_out(config.hold_out) if config.hold_out else data
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    loss = losses.make(config.loss, config.margin, config.images_per_class, config.beta)
    trainer = start(config)
    # Images lie on the device as bytes, if it has room for them, and are cropped there.
    place = evaluation.storage_device(data.train.images.nbytes, trainer.generator.device)
    split = replace(data.train, images=data.train.images.to(place))
    watched = batches.draw(1, Generator().manual_seed(0))[0]
    crops = evaluation.crops_to_evaluate(config, whole, data, watched)
    evaluated = partial(evaluation.evaluate, config, trainer.model, crops)
    if checkpoint is None:
        trainer.history = [{"epoch": 0, "seconds": 0.0} | evaluated()]
        after_epoch(trainer)
    else:
        trainer.resume(checkpoint)
    for epoch in range(trainer.history[-1]["epoch"] + 1, config.epochs + 1):
        began = time.perf_counter()
        drops = sum(epoch > max(round(drop * config.epochs), 1) for drop in config.lr_drops)
        row = {"epoch": epoch, "lr": config.lr * config.lr_factor**drops}  # the first has all of lr
        for group in trainer.optimizer.param_groups:
            group["lr"] = row["lr"]
        indices = batches.draw(config.iterations, trainer.batch_generator)
        with seeded(1000 * config.seed + epoch, config.device):  # what the network itself draws
            row |= run_epoch(config, trainer, loss, split, indices)
        if not math.isfinite(sum(row.values())):
            where = f"epoch {epoch}, with lr {config.lr:g}, mdr_weight {config.mdr_weight:g}"
            raise StudyError(f"the loss became NaN or Inf in {where}: lower lr or mdr_weight")
        row["train_seconds"] = time.perf_counter() - began
        row |= evaluated()
        row["seconds"] = time.perf_counter() - began
        trainer.history.append(row)
        after_epoch(trainer)
    return trainer


def run_epoch(
    config: Config, trainer: Trainer, loss: losses.Loss, split: Split, indices: Tensor
) -> Row:
    """Take one epoch's steps; return their mean losses, and the levels and running values after.

    ``indices`` (steps, batch) are into the split, whose images may lie on the host.
    """
    mdr, targets = trainer.mdr, split.labels[indices].to(config.device)
    terms = torch.zeros(len(indices), 3, device=config.device)
    trainer.model.train()
    mdr.train()
    for step, index in enumerate(indices.to(split.images.device)):
        x = split.images[index]
        if x.device != targets.device:  # through pinned memory the host need not wait
            x = x.pin_memory().to(targets.device, non_blocking=True)
        if config.affine:
            x = augmentation.random_affine(x, config.affine, trainer.generator)
        if config.augment:
            x = augmentation.random_resized_crop(x, config.crop, trainer.generator, config.flip)
        else:
            x = augmentation.center_crop(x, config.resize, config.crop)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            embeddings = trainer.model(x.contiguous(memory_format=torch.channels_last))
        total = metric = loss(embeddings, targets[step], trainer.generator)
        if config.mdr_weight > 0:
            regularization = mdr(embeddings)
            total = metric + config.mdr_weight * regularization
            total = total + config.level_weight * mdr.levels.square().sum()
            terms[step, 2] = regularization.detach()
        trainer.optimizer.zero_grad()
        total.backward()
        trainer.optimizer.step()
        terms[step, 0], terms[step, 1] = total.detach(), metric.detach()
    names = ("loss", "metric_loss", "mdr_loss")
    row: Row = dict(zip(names, terms.cpu().mean(dim=0).tolist(), strict=True))
    row |= {f"level_{i}": level for i, level in enumerate(mdr.levels.tolist())}
    return row | {name: getattr(mdr, name).item() for name in ("running_mean", "running_std")}


@contextlib.contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's own random numbers, and leave them as they were."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed % 2**63)
        yield
