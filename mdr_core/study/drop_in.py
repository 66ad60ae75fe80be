"""MDR in a training loop that is not this study's: pytorch-metric-learning's parts, to copy from.

Its sampler, losses and miners keep their own defaults; torchvision crops. MDR enters in two lines:
the loss takes it as ``embedding_regularizer``, and the optimizer takes its levels. Only network,
optimizer and evaluation are those of :mod:`mdr_core.training`, so that their numbers compare.

On L2-normalized embeddings the library's losses normalize, as they do by default. All others get
embeddings divided by the mean distance of their batch.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners, samplers
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mdr_core import training
from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.errors import StudyError, unknown
from mdr_core.evaluation.epoch import crops_to_evaluate, evaluate
from mdr_core.regularizer import MDR
from mdr_core.training import Row, Trainer, learning_rate

LOSSES = (
    "TripletMarginLoss",
    "TripletMarginLoss, semi-hard",
    "MultiSimilarityLoss",
    "ProxyAnchorLoss",
)
PROXIES = 100.0  # times the network's learning rate is that of the proxies, as their authors do


def loss_and_miner(config: Config, mdr: MDR, classes: int) -> tuple[nn.Module, nn.Module | None]:
    """Return a loss of the library, with MDR where λ is above 0, and the miner that it goes with.

    MultiSimilarityLoss and ProxyAnchorLoss, which act on cosines, keep the library's distance.

    Args:
        config: its ``loss`` is one of LOSSES.
        classes: the number of training classes, a proxy each.

    Raises:
        StudyError: another loss.
    """
    added = {"embedding_regularizer": mdr, "embedding_reg_weight": config.mdr_weight}
    added = added if config.mdr_weight > 0 else {}
    distance = distances.LpDistance(normalize_embeddings=config.normalization == "l2")
    match config.loss:
        case "TripletMarginLoss":
            return losses.TripletMarginLoss(distance=distance, **added), None
        case "TripletMarginLoss, semi-hard":
            miner = miners.TripletMarginMiner(type_of_triplets="semihard", distance=distance)
            return losses.TripletMarginLoss(distance=distance, **added), miner
        case "MultiSimilarityLoss":
            return losses.MultiSimilarityLoss(**added), miners.MultiSimilarityMiner()
        case "ProxyAnchorLoss":
            return losses.ProxyAnchorLoss(classes, config.dim, **added), None
    raise unknown("loss of the drop-in loop", config.loss, LOSSES)


def start(config: Config, data: RetrievalDataset) -> tuple[Trainer, nn.Module | None]:
    """Return a trainer before its first step, and a miner; ``config.seed`` seeds both.

    The proxies of a loss that has some are drawn too, and have a learning rate of their own.
    """
    trainer = training.start(config)
    with seeded(config.seed, torch.device(config.device)):
        loss, miner = loss_and_miner(config, trainer.mdr, len(data.train.class_names))
    trainer.loss = loss.to(config.device)
    proxies = [p for name, p in loss.named_parameters() if "embedding_regularizer" not in name]
    if proxies:
        group: Row = {"params": proxies, "weight_decay": config.weight_decay, "times": PROXIES}
        trainer.optimizer.add_param_group(group)
    return trainer, miner


class Crops(Dataset):
    """Images (3, S, S) with their labels, cropped anew whenever they are taken."""

    def __init__(self, images: Tensor, labels: Tensor, crop: Callable[[Tensor], Tensor]):
        self.images, self.labels, self.crop = images, labels, crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.crop(self.images[index]), self.labels[index]


def train(
    config: Config,
    data: RetrievalDataset,
    checkpoint: Row | None = None,
    after_epoch: Callable[[Trainer], object] = lambda trainer: None,
) -> Trainer:
    """Train a run to its last epoch; arguments as in :func:`mdr_core.training.train`.

    Random numbers are seeded at every epoch: a resumed run ends like an uninterrupted one.

    Raises:
        StudyError: held-out classes, which this loop does not have; an unknown loss; a loss that
            became NaN or Inf.
    """
    if config.hold_out:
        raise StudyError("the drop-in loop takes hold_out = 0")
    trainer, miner = start(config, data)
    model, mdr, device = trainer.model, trainer.mdr, torch.device(config.device)
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    one_batch = batches.draw(1, Generator().manual_seed(0))[0]
    crops = crops_to_evaluate(config, data, data, one_batch)
    if checkpoint is None:
        trainer.history.append({"epoch": 0} | evaluate(config, model, mdr, crops))
        after_epoch(trainer)
    else:
        trainer.resume(checkpoint)
    for epoch in range(trainer.history[-1]["epoch"] + 1, config.epochs + 1):
        began = time.perf_counter()
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch) * group.get("times", 1.0)
        with seeded(1000 * config.seed + epoch, device):
            mean = run_epoch(trainer, miner, loader(config, data.train), device)
        if not math.isfinite(mean):
            raise StudyError(f"the loss became NaN or Inf in epoch {epoch}: lower lr or mdr_weight")
        row = {"epoch": epoch, "loss": mean}
        row |= {f"level_{i}": level for i, level in enumerate(mdr.levels.tolist())}
        row |= evaluate(config, model, mdr, crops)
        row["seconds"] = time.perf_counter() - began
        trainer.history.append(row)
        after_epoch(trainer)
    return trainer


def run_epoch(
    trainer: Trainer, miner: nn.Module | None, batches: DataLoader, device: torch.device
) -> float:
    """Take one epoch's steps; return their mean loss."""
    trainer.model.train()
    trainer.mdr.train()
    seen = []
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        embeddings = trainer.model(images)
        mined = miner(embeddings, labels) if miner else None
        loss = trainer.loss(embeddings, labels, mined)
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        seen.append(loss.detach())
    return torch.stack(seen).mean().item()


def loader(config: Config, images: Split) -> DataLoader:
    """Return an epoch's batches: a few images of each of some classes, cropped by torchvision.

    It is made anew for each epoch, since the sampler goes on from the order that it left.
    """
    crop: list[nn.Module] = [v2.Resize(config.resize), v2.CenterCrop(config.crop)]
    if config.augment:
        crop = [v2.RandomResizedCrop(config.crop, augmentation.SCALE, augmentation.RATIO)]
    crop += [v2.RandomHorizontalFlip()] * config.flip
    sampler = samplers.MPerClassSampler(
        images.labels,
        config.images_per_class,
        config.batch_size,
        length_before_new_iter=config.batch_size * config.iterations,
    )
    crops = Crops(images.images, images.labels, v2.Compose(crop))
    return DataLoader(crops, config.batch_size, sampler=sampler)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed numpy (the sampler) and torch (the crops), and leave them as they were."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        with training.seeded(seed, device):
            yield
    finally:
        np.random.set_state(before)
