"""(a, c) End-to-end training throughput against the same network fed a fixed tensor, and what MDR
adds to a step.

*Store* is the study's loop: decoded images in memory, cropped on the device. *Files* decodes,
resizes and crops JPEG files by torchvision in worker processes, as the reference does. The images
are drawn, at 500 px. ``of the limit`` is images a second over those of the fixed tensor.
"""

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks import timing
from mdr_core import losses, training
from mdr_core.config import Config
from mdr_core.data import augmentation, image_cache
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import Split

CASES: dict[str, tuple[Any, ...]] = {  # backbone, crop, image size, batch, steps
    "cpu": (("resnet18.tv_in1k", 224, 256, 128, 1), ("tf_efficientnet_lite0", 96, 128, 80, 4)),
    "cuda": (("resnet50.tv_in1k", 224, 256, 128, 40), ("bn_inception", 224, 256, 128, 40)),
}


IMAGES, SIDE = 400, 500


def photographs(folder: Path) -> list[str]:
    """Draw IMAGES smooth images into a folder, as JPEG files; return their names."""
    rng, names = np.random.default_rng(0), [f"{i:04d}.jpg" for i in range(IMAGES)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        image = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / name, "jpeg", quality=90)
    return names


class Files(torch.utils.data.Dataset):
    """JPEG files, decoded and augmented one at a time."""

    def __init__(self, folder: Path, files: list[str], image_size: int, crop: int):
        self.folder, self.files = folder, files
        self.transform = v2.Compose(
            [
                v2.Resize((image_size, image_size), v2.InterpolationMode.LANCZOS),
                v2.RandomResizedCrop(
                    crop, augmentation.SCALE, augmentation.RATIO, v2.InterpolationMode.LANCZOS
                ),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.folder / self.files[i]) as image:
            return v2.functional.pil_to_tensor(self.transform(image.convert("RGB")))


def ways(
    backbone: str, crop: int, image_size: int, batch: int, steps: int, device: str, folder: Path
) -> dict:
    """name -> a function that trains ``steps`` steps on ``batch`` images each."""
    config = Config(
        backbone=backbone,
        weights="random",
        crop=crop,
        image_size=image_size,
        resize=image_size,
        batch_size=batch,
        mdr_weight=0.6,
        device=device,
    )
    trainer, place = training.start(config), torch.device(device)
    loss = losses.make("triplet", images_per_class=config.images_per_class)
    files = photographs(folder)
    pixels = np.stack([image_cache.pixels(folder / f, image_size, f, False) for f in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(place)
    labels = (torch.arange(len(files)) // config.images_per_class).to(place)
    picks = BalancedBatches(labels.cpu(), batch, config.images_per_class).draw(
        steps, torch.Generator().manual_seed(0)
    )
    split = Split(images, labels, (), ())
    fixed = augmentation.random_resized_crop(images[picks[0]], crop, trainer.generator)

    def step(x, target, with_mdr=True):
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            embeddings = trainer.model(x.contiguous(memory_format=torch.channels_last))
        total = loss(embeddings, target, trainer.generator)
        if with_mdr:
            total = total + config.mdr_weight * trainer.mdr(embeddings)
        trainer.optimizer.zero_grad()
        total.backward()
        trainer.optimizer.step()

    def from_fixed(with_mdr=True):
        trainer.model.train()
        for pick in picks:
            step(fixed, labels[pick], with_mdr)

    def from_files():
        trainer.model.train()
        for x, pick in zip(loader, picks, strict=True):
            step(x.to(place), labels[pick])

    loader = torch.utils.data.DataLoader(
        Files(folder, files, image_size, crop),
        batch_sampler=picks.tolist(),
        pin_memory=place.type == "cuda",
        num_workers=len(os.sched_getaffinity(0)),
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    return {
        "fixed tensor": from_fixed,
        "store": functools.partial(training.run_epoch, config, trainer, loss, split, picks),
        "files": from_files,
        "fixed tensor, no MDR": functools.partial(from_fixed, with_mdr=False),
    }


def measure(cases=None, rounds: int = 3, device: str = "cpu") -> pd.DataFrame:
    rows = []
    for backbone, crop, size, batch, steps in CASES[device] if cases is None else cases:
        with tempfile.TemporaryDirectory() as folder:
            each = ways(backbone, crop, size, batch, steps, device, Path(folder))
            seconds = timing.alternately(each, rounds)
        limit = seconds["fixed tensor"]
        rows += [
            {
                "network": f"{backbone} at {crop}",
                "fed from": name,
                "images a second": batch * steps / s,
                "of the limit": limit / s,
                "step with MDR over without": limit / s
                if name == "fixed tensor, no MDR"
                else float("nan"),
            }
            for name, s in seconds.items()
        ]
    return pd.DataFrame(rows)
