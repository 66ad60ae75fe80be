"""Regularizer, losses, sampler and retrieval against what the released implementation computes.

``recorded/mdr_small.npz`` is this implementation's own output on two small batches, in the
reference's layout, written once it agreed with the shared reference. It guards the formulas where
that reference is absent.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_core.evaluation.retrieval import recall_at_k
from mdr_core.losses import negative_probabilities, triplet_loss, triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

BESIDE = Path(__file__).resolve().parents[2] / "shared"
FILES = {
    "shared": Path(os.environ.get("MDR_SHARED", BESIDE)) / "reference" / "mdr_reference.npz",
    "recorded": Path(__file__).parent / "recorded" / "mdr_small.npz",
}
CASES = [(source, f"case{i}") for source in FILES for i in range(2)]


@pytest.fixture
def reference(source):
    if not FILES[source].exists():
        pytest.skip("the recorded reference (../shared/reference) is not here")
    return np.load(FILES[source])


def relative(value, expected):
    value = np.asarray(value.detach() if torch.is_tensor(value) else value, dtype=np.float64)
    return np.abs(value - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("source, case", CASES)
def test_mdr_equals_the_released_code_over_four_steps(reference, case):
    mdr = MDR()
    for step in range(4):
        names = "embeddings", "mdr_loss", "grad_embeddings", "grad_levels", "mean", "std"
        given = {name: reference[f"{case}.step{step}.{name}"] for name in names}
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
    for name, value in {
        "pdist": pairwise_distances(embeddings),
        "pdist_squared": pairwise_distances(embeddings, squared=True),
        "mean_distance_normalized": normalize_by_mean_distance(embeddings),
    }.items():
        assert relative(value, reference[f"{case}.{name}"]) < 1e-5
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
