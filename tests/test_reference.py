"""Regularizer, losses, sampler and retrieval against what the released implementation computes.

``recorded/mdr_small.npz`` is this implementation's own output on two small batches, in the
reference's layout, once it agreed with the shared reference; it guards the formulas elsewhere.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_core.evaluation.retrieval import recall_at_k
from mdr_core.losses import negative_probabilities, triplet_loss, triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("MDR_SHARED", HERE.parents[1] / "shared")) / "reference"
CASES = [("shared", f"case{n}") for n in range(3)] + [("recorded", f"case{n}") for n in range(2)]


@pytest.fixture
def reference(source):
    if source == "recorded":
        return np.load(HERE / "recorded" / "mdr_small.npz")
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
        x = torch.tensor(reference[f"{case}.step{step}.embeddings"], requires_grad=True)
        mdr.zero_grad()
        loss = mdr(x)
        loss.backward()
        found = {"mdr_loss": loss, "mean": mdr.running_mean, "std": mdr.running_std}
        for name, value in found.items():
            assert relative(value, reference[f"{case}.step{step}.{name}"]) < 1e-5
        for name, value in {"grad_embeddings": x.grad, "grad_levels": mdr.levels.grad}.items():
            assert relative(value, reference[f"{case}.step{step}.{name}"]) < 1e-4


@pytest.mark.parametrize("source, case", CASES)
def test_distances_triplets_and_recall_equal_the_released_code(reference, case):
    embeddings = torch.tensor(reference[f"{case}.step0.embeddings"], requires_grad=True)
    labels = torch.tensor(reference[f"{case}.labels"])
    found = {
        "pdist": pairwise_distances(embeddings),
        "pdist_squared": pairwise_distances(embeddings).square(),
        "mean_distance_normalized": normalize_by_mean_distance(embeddings),
    }
    for name, value in found.items():
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
