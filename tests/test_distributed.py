"""Several processes on one batch take the steps that a single process takes (gloo, on the CPU).

The steps are compared in float64: there the gradients agree to about 1e-10, step by step. In
float32 the first step's agree to its rounding: a random network's embeddings lie far from the
origin and near each other, so the distances' last digits are lost. Adam, which divides each
gradient by its own size, then carries on a difference in the smallest ones.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch import multiprocessing

from mdr_core import losses, training
from mdr_core.config import PRETRAINING
from mdr_core.data.batches import BalancedBatches
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.distributed import ALONE, Share, current
from mdr_core.errors import StudyError
from mdr_core.runs.store import RunStore
from mdr_core.study import profiles
from tests import processes  # noqa: F401 - the server that processes come from

SMALL = profiles.QUICK.replace(
    backbone="small_resnet_narrow",
    weights="random",
    batch_size=16,
    dim=32,
    lr=1e-4,
    train_images=100,
    seed=3,
)
SHORT = PRETRAINING.replace(backbone="small_resnet_narrow", epochs=1, iterations=100, batch_size=60)
CASES = {
    f"{loss}, {name}": SMALL.replace(loss=loss, augment=augment, **changes)
    for loss in ("triplet", "contrastive")
    for name, augment, changes in (
        ("plain", False, {}),
        ("MDR", True, {"mdr_weight": 0.6}),
        ("L2", False, {"normalization": "l2"}),
    )
} | {"triplet, MDR over pairs": SMALL.replace(mdr_weight=0.6, statistics="pairs")}
RUN = SMALL.replace(mdr_weight=0.2, epochs=2, iterations=20, batch_size=32, lr=3e-4)


@functools.cache
def images() -> RetrievalDataset:
    whole = load_dataset("drawn")
    return replace(
        whole, train=whole.train.of_classes(range(20)), test=whole.test.of_classes(range(10))
    )


def steps(config, share: Share, count: int, dtype=torch.float64) -> list[tuple]:
    """Losses (3,) and all gradients, as one vector, of each of the first steps."""
    split, trainer = images().train, training.start(config)
    trainer.model.to(dtype)
    trainer.mdr.to(dtype)
    loss = losses.make(config.loss, config.margin, config.images_per_class)
    batches = BalancedBatches(split.labels, config.batch_size, config.images_per_class).draw(
        count, trainer.batch_generator
    )
    found = []
    for index in batches:
        terms = training.run_epoch(
            config, trainer, loss, split.images, split.labels, index[None], share
        )
        gradients = [
            p.grad.flatten()
            for group in trainer.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        found.append((terms[0], torch.cat(gradients)))
    return found


def whole(share: Share, count: int) -> dict[str, list]:
    """Case -> ``count`` steps in float64, and one in float32."""
    found = {name: steps(config, share, count) for name, config in CASES.items()}
    return found | {
        f"{name}, float32": steps(config, share, 1, torch.float32) for name, config in CASES.items()
    }


def interrupted_once(config, root: Path) -> dict:
    """The run, stopped on all processes after its first epoch and started again."""
    whole_training, begun_at = training.train, []

    def stopping(config, images, trainer, save, share):
        def after(trainer):
            save(trainer)
            if trainer.history[-1]["epoch"] == 1:
                raise InterruptedError

        return whole_training(config, images, trainer, after, share=share)

    def noting(config, images, trainer, save, share):
        begun_at.append(len(trainer.history))
        return whole_training(config, images, trainer, save, share=share)

    training.train = stopping
    with pytest.raises((InterruptedError, StudyError)):
        RunStore(root).run(config)
    training.train = noting
    record = RunStore(root).run(config)
    training.train = whole_training
    assert begun_at == [2]  # with the checkpoint's two rows, epochs 0 and 1
    return record


def work(rank: int, world: int, folder: Path, weights: Path, count: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    share = current()
    assert share == Share(rank, world)
    found = whole(share, count)
    with pytest.raises(StudyError, match="cannot be shared evenly"):
        share.rows(2 * world + 1)
    with pytest.raises(StudyError, match="freeze_batch_norm"):
        training.train(
            SMALL.replace(freeze_batch_norm=False), images(), training.start(SMALL), share=share
        )
    config = RUN.replace(weights=str(weights))
    record = RunStore(folder / "runs").run(config)
    again = RunStore(folder / "runs").run(config)
    assert again["history"] == record["history"] and record["provenance"]["processes"] == world
    resumed = interrupted_once(config, folder / "resumed")
    for row, own in zip(resumed["history"], record["history"], strict=True):
        assert row["test_recall@1"] == pytest.approx(own["test_recall@1"], abs=0.1)
        assert row.get("loss", 0) == pytest.approx(own.get("loss", 0), rel=1e-5)
    if share.first:
        torch.save(found, folder / "steps.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Where to start from."""
    pretrained = training.train(
        SHORT, load_dataset("drawn_pretraining"), training.start(SHORT)
    ).model
    path = tmp_path_factory.mktemp("distributed") / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in pretrained.backbone.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def recall_alone(weights):
    """Recall@1 by epoch, of the run trained by one process."""
    return recall(RunStore(weights.parent / "runs").run(RUN.replace(weights=str(weights))))


def recall(record: dict) -> list[float]:
    return [row["test_recall@1"] for row in record["history"]]


@pytest.mark.parametrize(
    "world, count",
    [
        (2, 6),
        pytest.param(2, 20, marks=pytest.mark.long),
        pytest.param(4, 20, marks=pytest.mark.long),
    ],
)
def test_the_steps_and_a_run_are_those_of_one_process(
    world, count, weights, recall_alone, tmp_path
):
    alone = whole(ALONE, count)
    multiprocessing.start_processes(
        work, (world, tmp_path, weights, count), nprocs=world, start_method="forkserver"
    )
    found = torch.load(tmp_path / "steps.pt", weights_only=True)
    for name, expected in alone.items():
        for step, ((terms, gradient), (own_terms, own_gradient)) in enumerate(
            zip(found[name], expected, strict=True)
        ):
            tolerance = 1e-4 if "float32" in name else 1e-5
            assert torch.allclose(terms, own_terms, rtol=tolerance, atol=1e-7), (
                name,
                step,
                terms,
                own_terms,
            )
            away = (gradient - own_gradient).norm() / own_gradient.norm()
            exact = alone[name.removesuffix(", float32")][step][1]
            rounding = (
                own_gradient - exact
            ).norm() / exact.norm()  # of float32 itself, in one process
            assert away < max(1e-5, 3 * rounding), (name, step, float(away), float(rounding))
    [stored] = (tmp_path / "runs").glob("*/run.json")
    assert recall(json.loads(stored.read_text())) == pytest.approx(recall_alone, abs=0.5)
    assert recall_alone[-1] > recall_alone[0] + 2  # it was a training
