"""Losses against their formulas as loops, on unnormalized distances; sampling, normalization."""

import pytest
import torch

from mdr_core import losses
from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.losses import negative_probabilities, triplets
from mdr_core.networks import backbones
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.runs.local import local_name

NAMES = (
    "triplet", "contrastive", "margin", "multi_similarity", "ContrastiveLoss", "SupConLoss",
    "GeneralizedLiftedStructureLoss", "IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss",
    "MultiSimilarityLoss", "NCALoss", "NPairsLoss", "NTXentLoss", "TripletMarginLoss",
)  # fmt: skip
UNFIT = ("tripled", "os", "ArcFaceLoss", "CircleLoss", "HistogramLoss", "BaseMetricLossFunction")


@pytest.fixture
def batch():
    x = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(12) // 4, torch.Generator().manual_seed(1)


def test_contrastive_and_multi_similarity_equal_their_formulas(batch):
    x, y, g = batch
    positive, negative, total = [], [], torch.zeros(())
    for i in range(12):
        d = (x - x[i]).norm(dim=1)
        same = y == y[i]
        same[i] = False
        positive += d[same].tolist()
        negative += (1 - d[(y != y[i]) & (d < 1)]).tolist()
        total += torch.log1p(torch.exp(2 * (d[same] - 0.5)).sum()) / 2
        total += torch.log1p(torch.exp(50 * (0.5 - d[y != y[i]])).sum()) / 50
    expected = sum(positive) / len(positive) + sum(negative) / max(len(negative), 1)
    assert float(losses.make("contrastive")(x, y, g)) == pytest.approx(expected, rel=1e-4)
    found = float(losses.make("multi_similarity")(x, y, g))
    assert found == pytest.approx(float(total / 12), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_normalizes_embeddings_behind_the_readers_back(batch, name):
    x, y, _ = batch
    make = lambda scale: losses.make(name)(scale * x, y, torch.Generator().manual_seed(1))  # noqa: E731
    assert torch.isfinite(make(1.0))
    if name != "NPairsLoss":  # not a function of scale at random
        assert float(make(1.0)) != pytest.approx(float(make(0.1)), rel=1e-3)


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_distance_based_loss_is_refused_with_the_names_that_exist(name):
    with pytest.raises(StudyError, match="choose one of triplet, contrastive, margin, multi_sim"):
        losses.make(name)


def test_the_margin_loss_has_its_beta_where_asked(batch):
    x, y, g = batch
    d, same = torch.cdist(x, x), y[:, None] == y[None, :]
    positive = (d - 0.85 + 0.2)[same & ~torch.eye(12, dtype=torch.bool)].relu()
    negative = (0.85 - d + 0.2)[~same].relu()
    hinges = torch.cat([positive, negative])
    found = losses.make("margin", beta=0.85)(x, y, g)
    assert float(found) == pytest.approx(float(hinges[hinges > 0].mean()), rel=1e-4)


OWN = """
import torch
class Sum(torch.nn.Module):
    def forward(self, embeddings, labels):
        return {factor} * embeddings.sum() + labels.sum()
class Learns(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
Asks = lambda classes: None
Each = lambda: lambda embeddings, labels: embeddings.sum(1)
Fails = lambda: lambda embeddings, labels: {{}}["none"]
"""


def test_a_readers_own_loss_is_the_one_that_its_file_holds_now(batch, tmp_path, monkeypatch):
    """A run of it has another name for each text."""
    (x, y, g), names = batch, []
    monkeypatch.syspath_prepend(tmp_path)
    for factor in (2, 30, 2):
        (tmp_path / "own_loss.py").write_text(OWN.format(factor=factor))
        expected = factor * float(x.sum()) + float(y.sum())
        assert float(losses.make("own_loss:Sum")(x, y, g)) == pytest.approx(expected, rel=1e-5)
        names.append(local_name(Config(loss="own_loss:Sum"), "data"))
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("name, why", [
    ("nowhere_at_all:Sum", "No module named"), ("own_loss:Some", "no attribute 'Some'"),
    ("own_loss:Asks", "missing 1 required positional argument"),
    ("own_loss:Learns", "parameters, which are not trained"), ("__main__:Sum", "cannot be used"),
    ("broken:Sum", "SyntaxError: .*broken.py, line 1"),
    ("own_loss:Each", r"returns \(4,\) numbers"), ("own_loss:Fails", "KeyError: 'none'"),
])  # fmt: skip
def test_a_loss_that_cannot_be_made_is_refused_in_a_line(tmp_path, monkeypatch, name, why):
    (tmp_path / "own_loss.py").write_text(OWN.format(factor=1))
    (tmp_path / "broken.py").write_text("class Sum(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match=why):
        losses.make(name)


def test_triplets_cover_every_positive_pair_and_follow_the_probabilities(batch):
    x, y, g = batch
    probability = negative_probabilities(x, y)
    counts = torch.zeros(12, 12)
    for _ in range(400):
        (a, p, n), exists = triplets(x, y, g)
        assert exists.all() and (y[a] == y[p]).all() and (a != p).all() and (y[n] != y[a]).all()
        counts.index_put_((a, n), torch.ones(len(a)), accumulate=True)
    assert (counts / counts.sum(dim=1, keepdim=True) - probability).abs().max() < 0.06


def test_anchors_without_a_candidate_draw_uniformly_and_lone_images_give_no_triplet():
    x = torch.eye(4)[[0, 0, 1, 2]] * torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None]
    y = torch.tensor([0, 0, 1, 2])
    x[2] = -x[0]  # opposite: farther than 1.4 from the others of class 0
    x[3] = -x[0]
    assert torch.equal(negative_probabilities(x, y)[0], torch.tensor([0, 0, 0.5, 0.5]))
    (a, _, _), exists = triplets(x, y, torch.Generator().manual_seed(0))
    assert set(a[exists].tolist()) == {0, 1}


def test_normalizations_and_frozen_batch_norm():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    for name in ("mean_distance", "l2", "none"):
        net = EmbeddingNet(backbones.backbone("small_resnet", "random"), 8, name).train()
        assert not any(m.training for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
        trained, tested = net(images), net.eval()(images)
        lengths = tested.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(6), atol=1e-5) == (name == "l2")
        mean = torch.pdist(trained).mean()
        assert torch.isclose(mean, torch.ones(()), atol=1e-4) == (name == "mean_distance")
