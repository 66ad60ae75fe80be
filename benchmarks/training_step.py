"""(a) How fast a photograph's training step is, against the plain way of writing it.

Side by side in one process on one core, EfficientNet-Lite0 at 96 px, random images: forward, both
losses, backward, Adam and the augmentation. *Plain* is contiguous memory and batch norm as a layer
of its own. *Channels last* changes the memory format. *Folded* is the study's loop. *Compiled* is
that loop with torch.compile, where there is a C++ compiler. The numbers are ratios of images a
second to plain's, taken in turns.
"""

import shutil

import pandas as pd
import torch

from benchmarks import timing
from mdr_core import losses, training
from mdr_core.data import augmentation
from mdr_core.data.batches import BalancedBatches
from mdr_core.networks import backbones
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.profiles import MDR, Study

STEPS, ROUNDS = 3, 4


def step_of(channels_last: bool, folded: bool, compiled: bool = False):
    """A function that runs STEPS training steps."""
    config = Study("photos").config(MDR)
    trainer = training.start(config)
    if not folded:
        trainer.model = EmbeddingNet(
            backbones.backbone(config.backbone), config.dim, config.normalization, False
        )
        trainer.model.freeze_batch_norm = True  # frozen, but not folded
        trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=config.lr, fused=True)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    trainer.model.to(memory_format=layout)
    if compiled:
        trainer.model.backbone.compile()
    images = torch.randint(0, 256, (400, 3, 128, 128), dtype=torch.uint8)
    labels = torch.arange(400) % 25
    batches = BalancedBatches(labels, config.batch_size, config.images_per_class)
    loss = losses.make("triplet", images_per_class=4)

    def run():
        trainer.model.train()
        for index in batches.draw(STEPS, trainer.batch_generator):
            crops = augmentation.random_resized_crop(images[index], config.crop, trainer.generator)
            embeddings = trainer.model(crops.contiguous(memory_format=layout))
            total = loss(
                embeddings, labels[index], trainer.generator
            ) + config.mdr_weight * trainer.mdr(embeddings)
            trainer.optimizer.zero_grad()
            total.backward()
            trainer.optimizer.step()

    return run


def measure() -> pd.DataFrame:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways = {
        "plain": step_of(False, False),
        "channels last": step_of(True, False),
        "folded": step_of(True, True),
    }
    if shutil.which("g++"):
        ways["folded, compiled"] = step_of(True, True, True)
    seconds = timing.alternately(ways, ROUNDS)
    torch.set_num_threads(threads)
    images = STEPS * Study("photos").config(MDR).batch_size
    return pd.DataFrame(
        [
            {
                "way": name,
                "images a second": images / s,
                "times plain": seconds["plain"] / s,
                "threads": 1,
            }
            for name, s in seconds.items()
        ]
    )
