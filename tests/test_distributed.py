"""Several processes on one batch take the steps that a single process takes (gloo, on the CPU).

The steps are compared in float64: there the gradients agree to about 1e-10, step by step. In float32 the first step's agree
to its rounding (a random network's embeddings lie far from the origin and near each other, so the distances' last digits are
lost), and Adam, which divides each gradient by its own size, then carries on a difference in the smallest ones.
"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch import multiprocessing

from mdr_core import data, losses, profiles, runs, training
from mdr_core.distributed import ALONE, Share, current
from mdr_core.errors import StudyError
from mdr_core.sampling import BalancedBatches

SMALL = profiles.QUICK.replace(
    backbone="small_resnet_narrow", weights="random", batch_size=16, dim=32, lr=1e-4, train_images=100, seed=3,
)
PRETRAINING = profiles.PRETRAINING.replace(backbone="small_resnet_narrow", epochs=3, iterations=50)
STEPS = 20
CASES = {
    f"{loss}, {name}": SMALL.replace(loss=loss, augment=augment, **changes)
    for loss in ("triplet", "contrastive")
    for name, augment, changes in (("plain", False, {}), ("MDR", True, {"mdr_weight": 0.6}), ("L2", False, {"normalization": "l2"}))
} | {"triplet, MDR over pairs": SMALL.replace(mdr_weight=0.6, statistics="pairs")}
RUN = SMALL.replace(mdr_weight=0.2, epochs=2, iterations=20, batch_size=32, lr=3e-4)


def images() -> data.RetrievalDataset:
    whole = data.load("drawn")
    return replace(whole, train=whole.train.of_classes(range(20)), test=whole.test.of_classes(range(10)))


def steps(config, share: Share, count: int = STEPS, dtype=torch.float64) -> list[tuple]:
    """Losses (3,) and all gradients, as one vector, of each of the first steps."""
    split, trainer = images().train, training.start(config)
    trainer.model.to(dtype)
    trainer.mdr.to(dtype)
    loss = losses.make(config.loss, config.margin, config.images_per_class)
    batches = BalancedBatches(split.labels, config.batch_size, config.images_per_class).draw(count, trainer.host)
    found = []
    for index in batches:
        terms = training.run_epoch(config, trainer, loss, split.images, split.labels, index[None], share)
        gradients = [p.grad.flatten() for group in trainer.optimizer.param_groups for p in group["params"] if p.grad is not None]
        found.append((terms[0], torch.cat(gradients)))
    return found


def whole(share: Share) -> dict[str, list]:
    found = {name: steps(config, share) for name, config in CASES.items()}
    return found | {f"{name}, float32": steps(config, share, 1, torch.float32) for name, config in CASES.items()}


def interrupted_once(config, root: str) -> dict:
    """The run, stopped on all processes after its first epoch and asked for again."""
    whole_training, begun_at = training.train, []

    def stopping(config, images, trainer, save, progress, share):
        def after(trainer):
            save(trainer)
            if trainer.history[-1]["epoch"] == 1:
                raise InterruptedError
        return whole_training(config, images, trainer, after, progress, share)

    def noting(config, images, trainer, *rest):
        begun_at.append(len(trainer.history))
        return whole_training(config, images, trainer, *rest)

    training.train = stopping
    with pytest.raises((InterruptedError, StudyError)):
        runs.run(config, root)
    training.train = noting
    record = runs.run(config, root)
    training.train = whole_training
    assert begun_at == [2]  # with the checkpoint's two rows, epochs 0 and 1
    return record


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    share = current()
    assert share == Share(rank, world)
    found = whole(share)
    with pytest.raises(StudyError, match="cannot be shared evenly"):
        share.rows(2 * world + 1)
    with pytest.raises(StudyError, match="freeze_batch_norm"):
        training.train(SMALL.replace(freeze_batch_norm=False), images(), training.start(SMALL), share=share)
    config = RUN.replace(weights=f"{folder}/weights.safetensors")
    record = runs.run(config, f"{folder}/runs-{world}")
    again = runs.run(config, f"{folder}/runs-{world}")
    assert again["history"] == record["history"] and record["provenance"]["processes"] == world
    resumed = interrupted_once(config, f"{folder}/resumed-{world}")
    for row, own in zip(resumed["history"], record["history"], strict=True):
        assert row["test_recall@1"] == pytest.approx(own["test_recall@1"], abs=0.1)
        assert row.get("loss", 0) == pytest.approx(own.get("loss", 0), rel=1e-5)
    if share.first:
        torch.save(found, f"{folder}/steps-{world}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone():
    return whole(ALONE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the weights to start from, and the same run trained by one process."""
    folder = tmp_path_factory.mktemp("distributed")
    pretrained = training.train(PRETRAINING, data.load("drawn_pretraining"), training.start(PRETRAINING)).model
    save_file({k: v.contiguous() for k, v in pretrained.backbone.state_dict().items()}, folder / "weights.safetensors")
    runs.run(RUN.replace(weights=str(folder / "weights.safetensors")), folder / "runs-1")
    return folder


def recall(folder, world: int) -> list[float]:
    [stored] = (folder / f"runs-{world}").glob("*/run.json")
    return [row["test_recall@1"] for row in json.loads(stored.read_text())["history"]]


@pytest.mark.parametrize("world", [2, 4])
def test_the_steps_and_a_run_are_those_of_one_process(world, alone, folder):
    multiprocessing.spawn(work, (world, str(folder)), nprocs=world)
    found = torch.load(folder / f"steps-{world}.pt", weights_only=True)
    for name, expected in alone.items():
        for step, ((terms, gradient), (own_terms, own_gradient)) in enumerate(zip(found[name], expected, strict=True)):
            tolerance = 1e-4 if "float32" in name else 1e-5
            assert torch.allclose(terms, own_terms, rtol=tolerance, atol=1e-7), (name, step, terms, own_terms)
            away = (gradient - own_gradient).norm() / own_gradient.norm()
            exact = alone[name.removesuffix(", float32")][step][1]
            rounding = (own_gradient - exact).norm() / exact.norm()  # of float32 itself, in one process
            assert away < max(1e-5, 3 * rounding), (name, step, float(away), float(rounding))
    assert recall(folder, world) == pytest.approx(recall(folder, 1), abs=0.5)
    assert recall(folder, 1)[-1] > recall(folder, 1)[0] + 2  # it was a training
