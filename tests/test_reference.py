"""Regularizer, losses, sampler and retrieval against what the released implementation computes.

``recorded/mdr_small.npz`` is this implementation's own output on two small batches, in the
reference's layout, written by

    python -m tests.test_reference

once it agreed with the shared reference; it guards the formulas where that reference is absent.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_core.evaluation.retrieval import recall_at_k
from mdr_core.losses import negative_probabilities, triplet_loss, triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

SHARED = (
    Path(os.environ.get("MDR_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "reference"
)


RECORDED = Path(__file__).parent / "recorded" / "mdr_small.npz"
CASES = [("shared", f"case{n}") for n in range(3)] + [("recorded", f"case{n}") for n in range(2)]


@pytest.fixture
def reference(source):
    if source == "recorded":
        return np.load(RECORDED)
    if not (SHARED / "mdr_reference.npz").exists():
        pytest.skip("the recorded reference (../shared/reference) is not here")
    return np.load(SHARED / "mdr_reference.npz")


def relative(value, expected):
    value = np.asarray(value.detach() if torch.is_tensor(value) else value, dtype=np.float64)
    return np.abs(value - expected).max() / np.abs(expected).max()


def a_step(mdr, x):
    mdr.zero_grad()
    loss = mdr(x)
    loss.backward()
    gradients = {"grad_embeddings": x.grad, "grad_levels": mdr.levels.grad}
    return {"mdr_loss": loss, "mean": mdr.running_mean, "std": mdr.running_std} | gradients


def measures(x):
    return {
        "pdist": pairwise_distances(x),
        "pdist_squared": pairwise_distances(x, squared=True),
        "mean_distance_normalized": normalize_by_mean_distance(x),
    }


@pytest.mark.parametrize("source, case", CASES)
def test_mdr_equals_the_released_code_over_four_steps(reference, case):
    mdr = MDR()
    for step in range(4):
        embeddings = torch.tensor(reference[f"{case}.step{step}.embeddings"], requires_grad=True)
        for name, value in a_step(mdr, embeddings).items():
            most = 1e-4 if "grad" in name else 1e-5
            assert relative(value, reference[f"{case}.step{step}.{name}"]) < most


@pytest.mark.parametrize("source, case", CASES)
def test_distances_triplets_and_recall_equal_the_released_code(reference, case):
    embeddings = torch.tensor(reference[f"{case}.step0.embeddings"], requires_grad=True)
    labels = torch.tensor(reference[f"{case}.labels"])
    for name, value in measures(embeddings).items():
        assert relative(value, reference[f"{case}.{name}"]) < 1e-5
    drawn = torch.tensor(reference[f"{case}.triplets"])
    loss = triplet_loss(embeddings, drawn, torch.ones_like(drawn[0], dtype=torch.bool))
    loss.backward()
    assert relative(loss, reference[f"{case}.triplet_loss"]) < 1e-5
    assert relative(embeddings.grad, reference[f"{case}.triplet_grad"]) < 1e-4
    probability = negative_probabilities(embeddings, labels).numpy()
    assert np.abs(probability - reference[f"{case}.negative_probability"]).max() < 1e-5
    indices, exists = triplets(embeddings, labels, torch.Generator().manual_seed(0))
    pairs = sorted(map(tuple, indices[:2, exists].T.tolist()))
    assert pairs == sorted(map(tuple, reference[f"{case}.triplets"][:2].T.tolist()))
    found = recall_at_k(embeddings.detach().numpy(), labels.numpy(), reference[f"{case}.recall_k"])
    assert np.allclose(list(found.values()), 100 * reference[f"{case}.recall"])


def record() -> dict[str, np.ndarray]:
    """The same figures by this implementation, on two batches of its own."""
    found = {}
    for case, (classes, each, dim) in enumerate([(3, 4, 6), (6, 4, 12)]):
        generator, mdr = torch.Generator().manual_seed(case), MDR()
        labels, key = torch.arange(classes).repeat_interleave(each), f"case{case}"
        batches = [torch.randn(len(labels), dim, generator=generator) for _ in range(4)]
        for step, x in enumerate(batches):
            x = (x + 0.5 * labels[:, None]).requires_grad_()
            values = {"embeddings": x} | a_step(mdr, x)
            found |= {f"{key}.step{step}.{n}": v.detach().clone() for n, v in values.items()}
        x = found[f"{key}.step0.embeddings"].clone().requires_grad_()
        indices, exists = triplets(x, labels, generator)
        loss = triplet_loss(x, indices, exists)
        loss.backward()
        recall = recall_at_k(x.detach(), labels, (1, 2, 4))
        values = measures(x) | {
            "labels": labels, "triplets": indices[:, exists], "triplet_loss": loss,
            "triplet_grad": x.grad, "negative_probability": negative_probabilities(x, labels),
            "recall_k": torch.tensor([*recall]),
            "recall": torch.tensor([*recall.values()], dtype=torch.float64) / 100,
        }  # fmt: skip
        found |= {f"{key}.{name}": value.detach() for name, value in values.items()}
    return {name: value.numpy() for name, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(RECORDED, **record())
