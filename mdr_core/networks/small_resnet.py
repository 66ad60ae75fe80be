"""A small residual network for 32x32 images, and its own pretraining, which replaces ImageNet's."""

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.data import drawn_characters
from mdr_core.files import cache_root, locked, sha256, write

WIDTHS = {"small_resnet": 16, "small_resnet_narrow": 8}
STEPS, BATCH, RATE = 300, 64, 1e-2  # of the pretraining


def small_resnet(name: str) -> nn.Sequential:
    """Return the network: a stem, then basic blocks at 16, 8 and 4 pixels, pooled."""
    width = WIDTHS[name]
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    channels = pairwise((width, width, 2 * width, 4 * width))
    blocks = (BasicBlock(i, o, 2, downsample_conv(i, o, 1, 2)) for i, o in channels)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def pretrained(name: str) -> dict[str, Tensor]:
    """Return the weights that classify drawn characters, learned once on each machine."""
    text = Path(__file__).read_text(encoding="utf-8")
    digest = sha256([name, drawn_characters.DRAWING, text])[:16]
    path = cache_root() / "pretrained" / f"{name}-{digest}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), torch.random.fork_rng([]):  # of several processes, one learns
        if not path.exists():
            write(path, save(learned(name)))
    return load_file(path)


def learned(name: str) -> dict[str, Tensor]:
    """Learn to tell the drawn characters' classes apart, by cross entropy on random batches."""
    torch.manual_seed(0)
    images, labels, names, *_ = drawn_characters.draw("pretrain")
    images = (images - 127.5) / 127.5
    net = small_resnet(name)
    classifier = nn.Sequential(net, nn.Linear(4 * WIDTHS[name], len(names)))
    classifier.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(classifier.parameters(), RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(classifier(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {key: value.contiguous() for key, value in net.state_dict().items()}
