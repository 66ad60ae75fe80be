"""The library's loop: MDR reaches its loss, a stopped run ends alike, and keys know its text."""

import io
from dataclasses import replace

import pytest
import torch

from mdr_core import drop_in, training
from mdr_core.data.dataset import RetrievalDataset, load_dataset
from mdr_core.errors import StudyError
from mdr_core.regularizer import MDR
from mdr_core.runs import identity
from mdr_core.study import experiments, profiles

CONFIG = profiles.QUICK.replace(
    weights="random", epochs=2, iterations=2, batch_size=8, images_per_class=2, train_images=20,
    loop="library", loss="TripletMarginLoss", mdr_weight=0.6,
)  # fmt: skip


@pytest.fixture(scope="module")
def images() -> RetrievalDataset:
    """A few of the drawn characters."""
    drawn = load_dataset("drawn")
    few = {"train": drawn.train.of_classes(range(6)), "test": drawn.test.of_classes(range(3))}
    return replace(drawn, **few)


def test_mdr_is_part_of_the_loss_and_its_levels_are_trained():
    embeddings = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 4
    plain, _ = drop_in.loss_and_miner("MultiSimilarityLoss", None, 0.0)
    mdr = MDR()
    both, _ = drop_in.loss_and_miner("MultiSimilarityLoss", mdr, 0.6)
    found = both(embeddings, labels)
    torch.testing.assert_close(found, plain(embeddings, labels) + 0.6 * MDR()(embeddings))
    found.backward()
    assert mdr.levels.grad.abs().sum() > 0


def test_a_run_stopped_after_an_epoch_ends_like_the_uninterrupted_one(images):
    class Stop(Exception):
        pass

    kept = io.BytesIO()

    def stop(trainer):
        kept.write(trainer.checkpoint())
        raise Stop

    whole = drop_in.train(CONFIG, images, training.start(CONFIG))
    with pytest.raises(Stop):
        drop_in.train(CONFIG, images, training.start(CONFIG), stop)
    trainer = training.start(CONFIG)
    kept.seek(0)
    trainer.resume(torch.load(kept, weights_only=True))
    resumed = drop_in.train(CONFIG, images, trainer)
    assert len(whole.history) == 3
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert not torch.equal(whole.mdr.levels, training.start(CONFIG).mdr.levels)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"loss": "triplet"}, "unknown loss of the drop-in loop"), ({"hold_out": 2}, "hold_out = 0")],
)
def test_what_the_loop_does_not_have_is_refused(images, change, message):
    config = CONFIG.replace(**change)
    with pytest.raises(StudyError, match=message):
        drop_in.train(config, images, training.start(config))


def test_the_key_names_the_text_of_the_loop(monkeypatch, tmp_path):
    study = CONFIG.replace(loop="study", loss="triplet")
    before = identity.key_of(CONFIG, "data"), identity.key_of(study, "data")
    text = (identity.PACKAGE / "drop_in.py").read_text(encoding="utf-8")
    (tmp_path / "drop_in.py").write_text(text + "# edited\n", encoding="utf-8")
    monkeypatch.setattr(identity, "number_version", lambda: "1")
    same = identity.key_of(CONFIG, "data"), identity.key_of(study, "data")
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)
    after = identity.key_of(CONFIG, "data"), identity.key_of(study, "data")
    assert same[1] == after[1] and same[0] != after[0] and before[0] != before[1]


def test_the_library_s_sampler_gets_whole_classes():
    """A small folder may fill 15 images, four of a class."""
    for row in experiments.drop_in("quick", "drawn", [0], batch_size=15, images_per_class=4):
        assert row["config"].batch_size == 12
        assert row["own"].batch_size % row["own"].images_per_class == 0
