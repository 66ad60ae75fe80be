"""The training loop of every experiment, on CPU and GPU.

    for each epoch:  for each batch:  crop -> embed -> L_metric + lambda L_MDR + nu sum s^2 -> Adam
                     evaluate

Nothing inside an epoch waits for the device, except inside a library's loss. Indices, crops,
triplets and statistics are computed there. The losses are read once, at the epoch's end. In
distributed training each process embeds its share of the batch (mdr_core.distributed).
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from mdr_core import losses
from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch as evaluation
from mdr_core.networks.backbones import backbone
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR

Row = dict[str, Any]
MANY_CLASSES = 200


@dataclass
class Trainer:
    """What a run changes while it trains, and so what a resumed run needs."""

    model: EmbeddingNet
    mdr: MDR
    optimizer: torch.optim.Optimizer
    batch_generator: Generator  # on the CPU: draws the batches
    generator: Generator  # on the device: draws crops, flips and negatives
    history: list[Row]  # a row per evaluated epoch; epoch 0 is before any training
    loss: nn.Module = field(default_factory=nn.Identity)  # of the library's loop: it may learn

    def checkpoint(self) -> bytes:
        """Return the content of a checkpoint file."""
        content = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "mdr": self.mdr.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "host": self.batch_generator.get_state(),
            "device": self.generator.get_state(),
            "history": self.history,
        }
        torch.save(state, content)
        return content.getvalue()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a loaded checkpoint."""
        self.model.load_state_dict(state["model"])
        self.mdr.load_state_dict(state["mdr"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batch_generator.set_state(state["host"])
        self.generator.set_state(state["device"])
        self.history = state["history"]


def start(config: Config, backbone_state: dict[str, Tensor] | None = None) -> Trainer:
    """Return a trainer before its first step, its random numbers derived from ``config.seed``.

    Args:
        backbone_state: the backbone's weights where ``config.weights`` is ``"classes"``.
    """
    device = torch.device(config.device)
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudyError("device is 'cuda', but torch finds no GPU here: set device to 'cpu'")
    if device.type == "cuda" and int(os.environ.get("LOCAL_RANK", 0)) >= gpus:
        raise StudyError(f"there are {gpus} GPUs here, fewer than processes: start one for each")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = backbone(config.backbone, config.weights if backbone_state is None else "random")
        if backbone_state is not None:
            net.load_state_dict(backbone_state)
        model = EmbeddingNet(net, config.dim, config.normalization, config.freeze_batch_norm)
    model = model.to(device).to(memory_format=torch.channels_last)
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
        batch_generator=Generator().manual_seed(config.seed),
        generator=Generator(device).manual_seed(config.seed),
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
    """Train from the trainer's last epoch to the configuration's.

    Args:
        data: its test split is evaluated after every epoch. So are the ``config.hold_out``
            training classes that are kept from training.
        after_epoch: called with the trainer after every evaluation; the run store saves it there.
        progress: show a bar over the epochs.
        share: this process's; each process must give an equal trainer.

    Raises:
        StudyError: the loss became NaN or Inf, a batch cannot be filled or not shared evenly.
    """
    device = torch.device(config.device)
    if share.world > 1 and not config.freeze_batch_norm:
        raise StudyError(
            "freeze_batch_norm must be True on several processes: each would see its own statistics"
        )
    share.rows(config.batch_size)
    whole, data = data, data.hold_out(config.hold_out) if config.hold_out else data
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    loss = losses.make(config.loss, config.margin, config.images_per_class).to(device)
    if list(loss.parameters()):
        raise StudyError(
            f"loss {config.loss!r} has parameters of its own, which this loop does not train"
        )
    # Images lie on the device as bytes, and are cropped there.
    images = data.train.images.to(evaluation.storage_device(data.train.images.nbytes, device))
    labels = data.train.labels.to(device)
    one_batch = batches.draw(1, Generator().manual_seed(0))[0]
    crops = evaluation.crops_to_evaluate(config, whole, data, one_batch)

    if not trainer.history:
        row = evaluation.evaluate(config, trainer.model, trainer.mdr, crops)
        trainer.history.append({"epoch": 0, "seconds": 0.0} | row)
        after_epoch(trainer)
    done = trainer.history[-1]["epoch"]
    bar = tqdm(
        total=config.epochs, initial=done, unit="epoch", disable=not (progress and share.first)
    )
    for epoch in range(done + 1, config.epochs + 1):
        began = time.perf_counter()
        rate = learning_rate(config, epoch)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        indices = batches.draw(config.iterations, trainer.batch_generator)
        terms = run_epoch(config, trainer, loss, images, labels, indices, share)
        bad = (~torch.isfinite(terms).all(dim=1)).nonzero().flatten()
        if len(bad):
            raise StudyError(
                f"the loss became NaN or Inf in epoch {epoch}, step {int(bad[0]) + 1}, with lr "
                f"{rate:g}, loss {config.loss}, mdr_weight {config.mdr_weight:g}, seed "
                f"{config.seed}: lower lr or mdr_weight"
            )
        means = terms.mean(dim=0).tolist()
        row = {"epoch": epoch, "lr": rate}
        row |= zip(("loss", "metric_loss", "mdr_loss"), means, strict=True)
        row |= {f"level_{i}": level for i, level in enumerate(trainer.mdr.levels.tolist())}
        row["running_mean"] = trainer.mdr.running_mean.item()
        row["running_std"] = trainer.mdr.running_std.item()
        row["train_seconds"] = time.perf_counter() - began
        row |= evaluation.evaluate(config, trainer.model, trainer.mdr, crops)
        row["seconds"] = time.perf_counter() - began
        trainer.history = with_by_class([*trainer.history, row])
        after_epoch(trainer)
        bar.update()
    bar.close()
    return trainer


def run_epoch(
    config: Config,
    trainer: Trainer,
    loss: nn.Module,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    share: Share = ALONE,
) -> Tensor:
    """Take one epoch's steps.

    Args:
        images: (N, 3, S, S) uint8, on the device or the host.
        labels: (N,), on the device.
        indices: (steps, batch) into them.

    Returns:
        (steps, 3) on the CPU: total, metric and MDR loss of each step.
    """
    device = labels.device
    terms = torch.zeros(len(indices), 3, device=device)
    batch = indices.shape[1]
    rows = share.rows(batch)
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    trainer.model.train()
    trainer.mdr.train()
    own_images = load_batches(images, indices[:, rows], device)
    for step, (index, own) in enumerate(zip(indices.to(device), own_images, strict=True)):
        if config.augment:
            x = augmentation.random_resized_crop(
                own, config.crop, trainer.generator, config.flip, rows, batch
            )
        else:
            x = augmentation.center_crop(own, config.resize, config.crop)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embeddings = trainer.model(x.contiguous(memory_format=torch.channels_last), share)
        metric = loss(embeddings, labels[index], trainer.generator, share)
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


def load_batches(images: Tensor, indices: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield each batch of images on the device, by indices (steps, R) into those given.

    From the host they come through pinned memory on their own stream, while the device works.
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
    """Return an epoch's learning rate; epochs count from 1, and the first always has all of lr."""
    drops = [max(round(drop * config.epochs), 1) for drop in config.lr_drops]
    return config.lr * config.lr_factor ** sum(epoch > drop for drop in drops)


def with_by_class(history: list[Row]) -> list[Row]:
    """Keep the numbers by class, which are long, of each epoch that somebody may choose.

    Up to MANY_CLASSES test classes that is every epoch. With more it is the last one, and the best
    trained one by Recall@1 on the test and on the held-out classes.
    """
    if len(history[-1]["test_class_queries"]) <= MANY_CLASSES:
        return history
    trained = [row for row in history if row["epoch"] > 0]
    chosen = [history[-1]["epoch"]]
    for name in ("test_recall@1", "held_out_recall@1"):
        if name in history[-1]:
            chosen.append(max(trained, key=lambda row: row[name])["epoch"])
    return [row if row["epoch"] in chosen else evaluation.without_by_class(row) for row in history]
