"""The library's loop: MDR reaches its loss, and a stopped run ends alike."""

import io
from dataclasses import replace

import pytest
import torch
from mdr_core.study import drop_in, profiles

from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.regularizer import MDR

CONFIG = profiles.QUICK.replace(
    weights="random", epochs=2, iterations=2, batch_size=8, images_per_class=2, train_images=20,
    loop="library", loss="TripletMarginLoss", mdr_weight=0.6,
)  # fmt: skip
PROXIES, L2 = {"loss": "ProxyAnchorLoss"}, {"normalization": "l2", "mdr_weight": 0.0}
EMBEDDINGS = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4


@pytest.fixture(scope="module")
def images() -> RetrievalDataset:
    """A few of the drawn characters."""
    drawn = load_dataset("drawn")
    few = {"train": drawn.train.of_classes(range(6)), "test": drawn.test.of_classes(range(3))}
    return replace(drawn, **few)


def test_mdr_is_part_of_the_loss_and_its_levels_are_trained():
    mdr, config = MDR(), CONFIG.replace(loss="MultiSimilarityLoss")
    plain, _ = drop_in.loss_and_miner(config.replace(mdr_weight=0.0), mdr, 4)
    both, _ = drop_in.loss_and_miner(config, mdr, 4)
    found = both(EMBEDDINGS, LABELS)
    torch.testing.assert_close(found, plain(EMBEDDINGS, LABELS) + 0.6 * MDR()(EMBEDDINGS))
    found.backward()
    assert mdr.levels.grad.abs().sum() > 0


@pytest.mark.parametrize("change", [{}, PROXIES, PROXIES | L2])
def test_a_run_stopped_after_an_epoch_ends_like_the_uninterrupted_one(images, change):
    config, kept = CONFIG.replace(**change), []
    whole = drop_in.train(config, images, after_epoch=lambda t: kept.append(t.checkpoint()))
    checkpoint = torch.load(io.BytesIO(kept[1]), weights_only=True)
    resumed = drop_in.train(config, images, checkpoint=checkpoint)
    assert len(kept) == len(whole.history) == 3
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    fresh, _ = drop_in.start(config, images)
    moved = not torch.equal(whole.mdr.levels, fresh.mdr.levels)
    assert moved == (config.mdr_weight > 0)
    for one, other in zip(whole.loss.parameters(), resumed.loss.parameters(), strict=True):
        assert torch.equal(one, other)
    if config.loss == "ProxyAnchorLoss":
        rates = [group["lr"] for group in whole.optimizer.param_groups]
        assert rates[-1] == pytest.approx(100 * rates[0])
        assert not torch.equal(whole.loss.proxies, fresh.loss.proxies)
