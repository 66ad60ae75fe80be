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
CASES = [
    ("shared", "case0"),
    ("shared", "case1"),
    ("shared", "case2"),
    ("recorded", "case0"),
    ("recorded", "case1"),
]


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


@pytest.mark.parametrize("source, case", CASES)
def test_mdr_equals_the_released_code_over_four_steps(reference, case):
    mdr = MDR()
    for step in range(4):
        given = {
            k: reference[f"{case}.step{step}.{k}"]
            for k in ("embeddings", "mdr_loss", "grad_embeddings", "grad_levels", "mean", "std")
        }
        embeddings = torch.tensor(given["embeddings"], requires_grad=True)
        mdr.zero_grad()
        loss = mdr(embeddings)
        loss.backward()
        assert relative(loss, given["mdr_loss"]) < 1e-5
        assert relative(mdr.running_mean, given["mean"]) < 1e-5
        assert relative(mdr.running_std, given["std"]) < 1e-5
        assert relative(embeddings.grad, given["grad_embeddings"]) < 1e-4
        assert relative(mdr.levels.grad, given["grad_levels"]) < 1e-4


@pytest.mark.parametrize("source, case", CASES)
def test_distances_triplets_and_recall_equal_the_released_code(reference, case):
    embeddings = torch.tensor(reference[f"{case}.step0.embeddings"], requires_grad=True)
    labels = torch.tensor(reference[f"{case}.labels"])
    assert relative(pairwise_distances(embeddings), reference[f"{case}.pdist"]) < 1e-5
    assert (
        relative(pairwise_distances(embeddings, squared=True), reference[f"{case}.pdist_squared"])
        < 1e-5
    )
    assert (
        relative(
            normalize_by_mean_distance(embeddings), reference[f"{case}.mean_distance_normalized"]
        )
        < 1e-5
    )
    loss = triplet_loss(embeddings, torch.tensor(reference[f"{case}.triplets"]))
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
        generator, labels = (
            torch.Generator().manual_seed(case),
            torch.arange(classes).repeat_interleave(each),
        )
        mdr, key = MDR(), f"case{case}"
        for step in range(4):
            x = (
                torch.randn(len(labels), dim, generator=generator) + 0.5 * labels[:, None]
            ).requires_grad_()
            mdr.zero_grad()
            loss = mdr(x)
            loss.backward()
            values = {
                "embeddings": x,
                "mdr_loss": loss,
                "grad_embeddings": x.grad,
                "grad_levels": mdr.levels.grad,
                "mean": mdr.running_mean,
                "std": mdr.running_std,
            }
            found |= {
                f"{key}.step{step}.{name}": value.detach().numpy().copy()
                for name, value in values.items()
            }
        x = torch.tensor(found[f"{key}.step0.embeddings"], requires_grad=True)
        indices, exists = triplets(x, labels, generator)
        loss = triplet_loss(x, indices[:, exists])
        loss.backward()
        ks = (1, 2, 4)
        found |= {
            f"{key}.{name}": np.asarray(value)
            for name, value in {
                "labels": labels,
                "triplets": indices[:, exists],
                "triplet_loss": loss.detach(),
                "triplet_grad": x.grad,
                "pdist": pairwise_distances(x).detach(),
                "pdist_squared": pairwise_distances(x, squared=True).detach(),
                "mean_distance_normalized": normalize_by_mean_distance(x).detach(),
                "negative_probability": negative_probabilities(x, labels),
                "recall_k": ks,
                "recall": np.array(
                    list(recall_at_k(x.detach().numpy(), labels.numpy(), ks).values())
                )
                / 100,
            }.items()
        }
    return found


if __name__ == "__main__":
    np.savez_compressed(RECORDED, **record())
