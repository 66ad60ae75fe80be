"""Ranks, confusions and the choice of queries, on embeddings whose neighbours are known."""

import numpy as np
import pytest
import torch

from mdr_core.evaluation import epoch
from mdr_core.report import gallery

LINE = torch.tensor([[0.0], [1.0], [1.9], [10.0], [11.0], [12.1]])
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
FINDINGS = epoch.findings(epoch.RetrievalSet(LINE, LABELS))


def test_first_right_counts_ranks_from_one():
    # 0: 1 (wrong), 2 (right); 1: 2, 0 (wrong), 3; 2: 1, 0; 3: 4; 4: 3; 5: 4, 3 (wrong), 2
    assert gallery.first_right(FINDINGS, LABELS.numpy()).tolist() == [2, 3, 2, 1, 1, 3]
    older = {"nearest": FINDINGS["nearest"][:, :1], "labels": LABELS}  # no ranks, one neighbor
    assert gallery.first_right(older, LABELS.numpy()).tolist() == [2, 2, 2, 1, 1, 2]
    alone = FINDINGS | {"first_right": FINDINGS["first_right"] * 0}
    assert gallery.first_right(alone, LABELS.numpy()).tolist() == [6] * 6


def test_confusions_count_first_places():
    table = gallery.confusions(FINDINGS, LABELS.numpy(), ("zero", "one"))
    assert table.to_dict("records") == [
        {"query class": "zero", "taken for": "one", "queries": 3, "share [%]": 100},
        {
            "query class": "one",
            "taken for": "zero",
            "queries": 1,
            "share [%]": pytest.approx(100 / 3),
        },
    ]


def test_half_of_the_queries_are_those_on_which_the_models_disagree():
    ranks = {"a": np.array([1, 1, 1, 2, 3, 1]), "b": np.array([1, 2, 1, 1, 3, 1])}
    chosen = gallery.choose(ranks, 4)
    assert len(set(chosen.tolist())) == 4 and set(chosen[:2].tolist()) == {1, 3}
    assert gallery.hardest(ranks, 1).tolist() == [4]
