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
from tqdm import tqdm

from mdr_core import training
from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError, unknown
from mdr_core.evaluation.epoch import crops_to_evaluate, evaluate
from mdr_core.regularizer import MDR
from mdr_core.training import Trainer, learning_rate, with_by_class

LOSSES = (
    "TripletMarginLoss",
    "TripletMarginLoss, semi-hard",
    "MultiSimilarityLoss",
    "ProxyAnchorLoss",
)
PROXIES = (
    100.0  # times the network's learning rate is that of the proxies, as their authors have it
)


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


def start(config: Config, data: RetrievalDataset, backbone: dict[str, Tensor] | None) -> Trainer:
    """Return a trainer before its first step, its random numbers derived from ``config.seed``.

    The proxies of a loss that has some are drawn too, and have a learning rate of their own.
    """
    trainer = training.start(config, backbone)
    with seeded(config.seed):
        loss, _ = loss_and_miner(config, trainer.mdr, len(data.train.class_names))
    proxies = [p for name, p in loss.named_parameters() if "embedding_regularizer" not in name]
    if proxies:
        trainer.loss = loss.to(config.device)
        group = {"params": proxies, "weight_decay": config.weight_decay, "times": PROXIES}
        trainer.optimizer.add_param_group(group)
    return trainer


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
    trainer: Trainer,
    after_epoch: Callable[[Trainer], None] = lambda trainer: None,
    progress: bool = False,
    share: Share = ALONE,
) -> Trainer:
    """Train to the last epoch; arguments as in :func:`mdr_core.training.train`.

    Random numbers are seeded at every epoch: a resumed run ends like an uninterrupted one.

    Raises:
        StudyError: several processes or held-out classes, which this loop does not have; an unknown
            loss; a loss that became NaN or Inf.
    """
    if share.world > 1 or config.hold_out:
        raise StudyError("the drop-in loop takes one process and hold_out = 0")
    device, model, mdr = torch.device(config.device), trainer.model, trainer.mdr
    loss, miner = loss_and_miner(config, mdr, len(data.train.class_names))
    if list(trainer.loss.parameters()):
        loss = trainer.loss
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    one_batch = batches.draw(1, Generator().manual_seed(0))[0]
    crops = crops_to_evaluate(config, data, data, one_batch)
    if not trainer.history:
        trainer.history.append({"epoch": 0} | evaluate(config, model, mdr, crops))
    first = trainer.history[-1]["epoch"] + 1
    for epoch in tqdm(range(first, config.epochs + 1), unit="epoch", disable=not progress):
        began, losses_seen = time.perf_counter(), []
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch) * group.get("times", 1.0)
        model.train()
        mdr.train()
        with seeded(config.seed * 1000 + epoch):
            for images, labels in loader(config, data.train):
                embeddings = model(images.to(device))
                labels = labels.to(device)
                total = loss(embeddings, labels, miner(embeddings, labels) if miner else None)
                trainer.optimizer.zero_grad()
                total.backward()
                trainer.optimizer.step()
                losses_seen.append(total.detach())
        mean = float(torch.stack(losses_seen).mean())
        if not math.isfinite(mean):
            raise StudyError(f"the loss became NaN or Inf in epoch {epoch}: lower lr or mdr_weight")
        row = {"epoch": epoch, "loss": mean}
        row |= {f"level_{i}": level for i, level in enumerate(mdr.levels.tolist())}
        row |= evaluate(config, model, mdr, crops)
        row["seconds"] = time.perf_counter() - began
        trainer.history = with_by_class([*trainer.history, row])
        after_epoch(trainer)
    return trainer


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
def seeded(seed: int) -> Iterator[None]:
    """Seed numpy (the sampler) and torch (the crops), and leave them as they were."""
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)
