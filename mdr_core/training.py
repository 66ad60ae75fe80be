"""The training loop, the one that every experiment uses, on CPU and GPU.

    for every epoch:  draw batches -> crop -> embed -> L_metric + lambda L_MDR + nu sum s^2 -> Adam;  then judge

Nothing inside an epoch waits for the device: indices, crops, triplets and statistics are computed where the images
lie, and the losses are read back once, at the epoch's end. On several processes (mdr_core.distributed) each embeds its
share of the batch, and all take the step that one would take.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mdr_core import augmentation, geometry, losses, mechanism, models, retrieval
from mdr_core.config import Config
from mdr_core.data import RetrievalDataset, Split
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.regularizer import MDR
from mdr_core.sampling import BalancedBatches

EMBED_BATCH = 128  # images embedded at a time


@dataclass
class Trainer:
    """Everything that a run changes while it trains, and so everything that a resumed run needs."""

    model: models.EmbeddingNet
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = models.backbone(config.backbone, "random" if backbone_state is not None else config.weights)
        if backbone_state is not None:
            backbone.load_state_dict(backbone_state)
        model = models.EmbeddingNet(backbone, config.dim, config.normalization, config.freeze_batch_norm)
    model = model.to(device, memory_format=torch.channels_last)
    mdr = MDR(config.levels, config.momentum, config.learn_levels, config.statistics, check_finite=False).to(device)
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
        raise StudyError("freeze_batch_norm must be True on several processes: each would see its own statistics")
    share.rows(config.batch_size)
    judged = {"test": crops(config, data.test, device, share)}
    if data.gallery is not None:
        judged["test"] += crops(config, data.gallery, device, share)
    if config.hold_out:
        data = data.hold_out(config.hold_out)
        judged["held_out"] = crops(config, data.test, device, share)
    batches = BalancedBatches(data.train.labels, config.batch_size, config.images_per_class)
    loss = losses.make(config.loss, config.margin, config.images_per_class).to(device)
    if list(loss.parameters()):
        raise StudyError(f"loss {config.loss!r} has parameters of its own, which this loop does not train")
    # The images stay on the device as bytes; crops are made there. Crops to judge never change: they are made once.
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    judged["train"] = crops(config, spread(data.train, config), device, share)
    probe = crops(config, data.train.of_images(batches.draw(1, torch.Generator().manual_seed(0))[0]), device, share)

    if not trainer.history:
        trainer.history.append({"epoch": 0, "seconds": 0.0} | judge(config, trainer, judged, probe, share))
        after_epoch(trainer)
    bar = tqdm(total=config.epochs, initial=trainer.history[-1]["epoch"], disable=not (progress and share.first), unit="epoch")
    for epoch in range(trainer.history[-1]["epoch"] + 1, config.epochs + 1):
        began = time.perf_counter()
        rate = learning_rate(config, epoch)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        terms = run_epoch(config, trainer, loss, images, labels, batches.draw(config.iterations, trainer.host), share)
        bad = (~torch.isfinite(terms).all(dim=1)).nonzero().flatten()
        if len(bad):
            raise StudyError(
                f"the loss became NaN or Inf in epoch {epoch}, step {int(bad[0]) + 1}, with lr {rate:g}, loss "
                f"{config.loss}, mdr_weight {config.mdr_weight:g}, seed {config.seed}: lower lr or mdr_weight"
            )
        means = dict(zip(("loss", "metric_loss", "mdr_loss"), terms.mean(dim=0).tolist(), strict=True))
        row = {"epoch": epoch, "lr": rate} | means | mdr_figures(trainer.mdr) | {"train_seconds": time.perf_counter() - began}
        row |= judge(config, trainer, judged, probe, share)
        trainer.history.append(row | {"seconds": time.perf_counter() - began})
        after_epoch(trainer)
        bar.update()
    bar.close()
    return trainer


def run_epoch(config, trainer, loss, images, labels, indices, share: Share = ALONE) -> Tensor:
    """One epoch's steps.

    Args:
        images: (N, 3, S, S) uint8; labels: (N,); both on the device.
        indices: (steps, batch) into them.
        share: this process's rows of every batch.

    Returns:
        (steps, 3) on the CPU: total, metric and MDR loss of each step.
    """
    device = images.device
    indices = indices.to(device, non_blocking=True)
    terms = torch.zeros(len(indices), 3, device=device)
    rows = share.rows(indices.shape[1])
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    trainer.model.train()
    trainer.mdr.train()
    for step, index in enumerate(indices):
        if config.augment:
            x = augmentation.random_resized_crop(images[index], config.crop, trainer.device, config.flip, rows)
        else:
            x = augmentation.centre_crop(images[index[rows]], config.resize, config.crop)
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


def learning_rate(config: Config, epoch: int) -> float:
    """Of an epoch counted from 1: lr times lr_factor for every share of the epochs that lies behind it."""
    behind = sum(epoch - 1 >= round(drop * config.epochs) for drop in config.lr_drops)
    return config.lr * config.lr_factor**behind


def spread(split: Split, config: Config) -> Split:
    """At most ``config.train_images`` training images: every n-th, so that all classes are there."""
    every = max(-(-len(split.labels) // max(config.train_images, 1)), 1)
    return split.of_images(torch.arange(0, len(split.labels), every))


def crops(config: Config, split: Split, device: torch.device, share: Share = ALONE) -> tuple[Tensor, Tensor]:
    """This process's part of the centre crops (N, 3, crop, crop), uint8 on the device; and all labels (N,)."""
    parts = [
        augmentation.centre_crop(part.to(device), config.resize, config.crop)
        for part in share.part(split.images).split(EMBED_BATCH)
    ]
    return torch.cat(parts), split.labels


@torch.inference_mode()
def embed(model: models.EmbeddingNet, images: Tensor, share: Share = ALONE, count: int | None = None) -> Tensor:
    """Embeddings (N, D), float32 on the CPU, of crops on the model's device.

    Args:
        images: (N, 3, crop, crop); on several processes each gives its part, and all get the whole.
        count: N, where the parts hold more.
    """
    model.eval()
    half = images.device.type == "cuda"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        parts = [model(part.contiguous(memory_format=torch.channels_last)) for part in images.split(EMBED_BATCH)]
    embeddings = share.gather(torch.cat(parts).float())[:count].cpu()
    if not torch.isfinite(embeddings).all():
        raise StudyError("the network gives NaN or Inf: lower lr or mdr_weight")
    return embeddings


def judge(config: Config, trainer: Trainer, judged: dict[str, tuple], probe: tuple, share: Share = ALONE) -> dict:
    """Recall@K of test, held-out and training images in percent, raw and (``_l2``) on L2-normalized embeddings; the test
    images' R-precision, MAP@R and class centres besides; and the figures of one batch of training images, ``probe``.
    Several processes embed together, and the first one judges.

    Args:
        judged: name -> crops and labels (N,) of the queries, as :func:`crops` gives them, and of a gallery where there is one.
    """
    embedded = {
        name: [(embed(trainer.model, images, share, len(labels)), labels) for images, labels in zip(of[::2], of[1::2], strict=True)]
        for name, of in (judged | {"probe": probe}).items()
    }
    return share.from_first(figures(config, trainer, embedded) if share.first else None)


def figures(config: Config, trainer: Trainer, embedded: dict[str, list]) -> dict:
    """What :func:`judge` finds, from name -> embeddings (N, D) and labels (N,) of the queries, and of a gallery."""
    row = {}
    [(batch, batch_labels)] = embedded.pop("probe")
    for name, parts in embedded.items():
        (_, labels), gallery_labels = parts[0], parts[1][1].numpy() if len(parts) > 1 else None
        raw = [part for part, _ in parts]
        for suffix, of in (("", raw), ("_l2", [torch.nn.functional.normalize(part, dim=1) for part in raw])):
            of_gallery = of[1].numpy() if len(of) > 1 else None
            found = retrieval.judge(of[0].numpy(), labels.numpy(), config.ks, of_gallery, gallery_labels, name == "test")
            row |= {f"{name}_recall@{k}{suffix}": value for k, value in found["recall"].items()}
            row |= {f"{name}_{k}{suffix}": found[k] for k in ("r_precision", "map_at_r") if k in found}
        if name == "test":
            row |= {f"centres_{k}": value for k, value in geometry.spread(raw[0].numpy(), labels.numpy()).items()}
    if config.loss != "classification":
        margin = config.margin if config.loss == "triplet" else None
        row |= mechanism.figures(batch, batch_labels, copy.deepcopy(trainer.mdr).cpu(), config.normalization, margin)
    return row


def mdr_figures(mdr: MDR) -> dict[str, float]:
    """Levels and running statistics, as an epoch's end leaves them."""
    levels = {f"level_{i}": value for i, value in enumerate(mdr.levels.tolist())}
    return levels | {"running_mean": mdr.running_mean.item(), "running_std": mdr.running_std.item()}
