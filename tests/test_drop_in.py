"""The library's loop, of the notebook drop_in: MDR reaches its loss, a stopped run ends alike."""

import io
from dataclasses import replace

import nbformat
import pytest
import torch

from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.files import CHECKOUT
from mdr_core.profiles import QUICK
from mdr_core.regularizer import MDR, normalize_by_mean_distance

CONFIG = QUICK.replace(
    weights="random", epochs=2, iterations=2, batch_size=8, images_per_class=2, train_images=20,
    loop="library", loss="TripletMarginLoss", mdr_weight=0.6,
)  # fmt: skip
PROXIES, L2 = {"loss": "ProxyAnchorLoss"}, {"normalization": "l2", "mdr_weight": 0.0}


@pytest.fixture(scope="module")
def images() -> RetrievalDataset:
    """A few of the profile's characters."""
    whole = load_dataset(CONFIG.dataset, CONFIG.image_size)
    few = {"train": whole.train.of_classes(range(6)), "test": whole.test.of_classes(range(3))}
    return replace(whole, **few)


@pytest.fixture(scope="module")
def train():
    """The notebook's loop, and nothing after it."""
    notebook = nbformat.read(CHECKOUT / "notebooks" / "drop_in.ipynb", 4)
    cells: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "train_in_library" not in cells:
            exec(cell.source, cells)
    return cells["train_in_library"]


def test_mdr_is_added_by_its_weight_and_its_levels_are_trained(images, train):
    one_step = {"epochs": 1, "iterations": 1}
    runs = [train(CONFIG.replace(mdr_weight=w, **one_step), images) for w in (0.0, 0.6, 1.2)]
    plain, some, twice = (run.history[1]["loss"] for run in runs)
    assert some > plain
    assert twice - some == pytest.approx(some - plain, rel=1e-4)
    assert [torch.equal(run.mdr.levels, MDR().levels) for run in runs] == [True, False, False]


@pytest.mark.parametrize("change", [{}, PROXIES, PROXIES | L2])
def test_a_run_stopped_after_an_epoch_ends_like_the_uninterrupted_one(images, train, change):
    config, kept = CONFIG.replace(**change), []
    whole = train(config, images, after_epoch=lambda t: kept.append(t.checkpoint()))
    checkpoint = torch.load(io.BytesIO(kept[1]), weights_only=True)
    resumed = train(config, images, checkpoint=checkpoint)
    assert len(kept) == len(whole.history) == 3
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    for one, other in zip(whole.loss.parameters(), resumed.loss.parameters(), strict=True):
        assert torch.equal(one, other)
    rates = [group["lr"] for group in whole.optimizer.param_groups]
    assert rates[-1] == pytest.approx((100 if change else 1) * rates[0])


def test_held_out_classes_are_refused(images, train):
    with pytest.raises(ValueError, match="hold_out"):
        train(CONFIG.replace(hold_out=2), images)


@pytest.mark.parametrize("divided", [True, False])
def test_mdr_alone_shrinks_raw_embeddings_and_not_divided_ones(divided):
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mdr, optimizer, before = MDR(), torch.optim.Adam([x], lr=0.02), torch.pdist(x).mean()
    for _ in range(200):
        loss = mdr(normalize_by_mean_distance(x) if divided else x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (torch.pdist(x).mean() < 0.5 * before) != divided
