"""Recall@K, R-precision and MAP@R against one-query-at-a-time loops; crops, intervals, settings."""

import numpy as np
import pytest
import torch
from PIL import Image

from mdr_core import config
from mdr_core.data import augmentation
from mdr_core.errors import StudyError
from mdr_core.evaluation import retrieval
from mdr_core.study import profiles, statistics


def loop(query, labels, gallery=None, gallery_labels=None):
    """Each query's hits down the whole ranking, by (distance, index)."""
    for i, q in enumerate(query):
        points, names = (query, labels) if gallery is None else (gallery, gallery_labels)
        d = ((points - q) ** 2).sum(axis=1)
        order = [j for j in np.argsort(d, kind="stable") if gallery is not None or j != i]
        yield names[order] == labels[i]


@pytest.mark.parametrize("device", [None, "cpu"])  # searched by faiss; by torch, as on a GPU
@pytest.mark.parametrize("own", [True, False])
def test_figures_equal_the_literal_loop_on_data_full_of_ties_and_duplicates(own, device):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (150, 4)).astype(np.float32), rng.integers(0, 12, 150)
    g, z = (
        (None, None)
        if own
        else (rng.integers(0, 3, (90, 4)).astype(np.float32), rng.integers(0, 11, 90))
    )
    index = retrieval.Index(x if own else g, device=device)
    found = retrieval.evaluate(retrieval.RetrievalSet(x, y, g, z), (1, 2, 8), index)
    hits = list(loop(x, y, g, z))
    for k in (1, 2, 8):
        assert found.recall[k] == pytest.approx(100 * np.mean([h[:k].any() for h in hits]))
    precision, average = [], []
    for h in hits:
        if r := int(h.sum()):
            precision.append(h[:r].mean())
            average.append(sum(h[: i + 1].mean() for i in range(r) if h[i]) / r)
    assert found.r_precision == pytest.approx(100 * np.mean(precision))
    assert found.map_at_r == pytest.approx(100 * np.mean(average))


def test_all_images_alike_leaves_each_query_itself_out_and_ranks_by_index():
    x = np.ones((30, 3), dtype=np.float32)
    assert [row.tolist() for row in retrieval.nearest(x, 2)[:3]] == [[1, 2], [0, 2], [0, 1]]


def test_bad_embeddings_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        retrieval.nearest(np.full((4, 2), np.nan, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="NaN"):
        retrieval.Index(np.full((4, 2), np.inf), device="cpu")
    with pytest.raises(ValueError, match="leave device out"):
        retrieval.Index(np.ones((4, 2)), "HNSW32", device="cpu")
    with pytest.raises(ValueError, match="between 1 and the 3"):
        retrieval.nearest(np.ones((4, 2), dtype=np.float32), 4)


def picture():
    small = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)


def test_crops_equal_pil_lanczos_within_a_grey_level():
    image = picture()
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]
    expected = np.asarray(
        image.resize((110, 110), Image.Resampling.LANCZOS).crop((7, 7, 103, 103))
    ).astype(int)
    assert (
        np.abs(
            augmentation.center_crop(tensor, 110, 96)[0].permute(1, 2, 0).numpy() - expected
        ).max()
        <= 1
    )
    one = lambda v: torch.tensor([float(v)])  # noqa: E731
    rows = augmentation.resample_matrix(one(20), one(67), one(20), one(87), 128, 96)
    columns = augmentation.resample_matrix(one(10), one(90), one(10), one(100), 128, 96)
    expected = np.asarray(
        image.crop((10, 20, 100, 87)).resize((96, 96), Image.Resampling.LANCZOS)
    ).astype(int)
    out = augmentation.resample(tensor.float(), rows, columns)[0].permute(1, 2, 0).round().numpy()
    assert np.abs(out - expected).max() <= 1


def test_boxes_are_distributed_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    ours = torch.stack(augmentation.random_boxes(4000, 128, torch.Generator().manual_seed(0)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, 128, 128)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, (0.16, 1.0), (0.75, 1.33)) for _ in range(4000)]
        ).T
    assert (ours.mean(dim=1) - theirs.float().mean(dim=1)).abs().max() < 2.5
    assert (ours.std(dim=1) - theirs.float().std(dim=1)).abs().max() < 2.0
    assert (ours[0] + ours[2] <= 128).all() and (ours[1] + ours[3] <= 128).all()


def test_interval_is_students_t_and_one_seed_has_none():
    found = statistics.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["half"] == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert np.isnan(statistics.interval([1.0])["half"])


@pytest.mark.parametrize(
    "values, line",
    [
        ({"learning_rate": 1}, "unknown parameter 'learning_rate': choose among dataset"),
        ({"epochs": 1.5}, "epochs must be of type int"),
        ({"lr": True}, "lr must be of type float"),
        ({"crop": 300}, "must not exceed resize"),
        ({"levels": [0, "x"]}, "levels must be of type float"),
        ({"levels": []}, "at least one number"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1"),
        ({"device": "gpu"}, "unknown device 'gpu': choose one of cpu, cuda"),
        ({"statistics": "foo"}, "unknown statistics 'foo'"),
        ({"seed": 2**70}, "seed must be less than"),
        ({"train_images": 1}, "train_images must be at least 2"),
    ],
)
def test_a_configuration_is_strict(values, line):
    with pytest.raises(StudyError, match=line):
        config.from_dict(values)


def test_levels_share_the_weight_decay_as_released_or_are_spared_it():
    from mdr_core import training

    base = profiles.QUICK.replace(weights="random", weight_decay=0.5)
    decays = [
        training.start(base.replace(decay_levels=d)).optimizer.param_groups[1]["weight_decay"]
        for d in (True, False)
    ]
    assert decays == [0.5, 0.0]


def test_profiles_name_what_exists():
    for call in (
        lambda: profiles.datasets("fast"),
        lambda: profiles.config("quick", "drawn", "Quadruplet"),
        lambda: profiles.config("quick", "cub", "Triplet"),
    ):
        with pytest.raises(StudyError, match="choose one of"):
            call()


@pytest.mark.parametrize(
    "profile, name", [(p, d) for p in ("photos", "paper") for d in profiles.datasets(p)]
)
def test_a_held_out_run_has_classes_enough_to_fill_its_batch(profile, name):
    from mdr_core.data.catalog import KNOWN

    settings = profiles.config(profile, name, "Triplet", held_out=True)
    classes = KNOWN[name].classes // 2 - settings.hold_out
    assert classes * settings.images_per_class >= settings.batch_size


def test_an_approximate_index_says_what_it_misses(tmp_path, monkeypatch):
    """From a memory map, in blocks; exact when it searches everything."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    labels = np.arange(4000) % 50
    np.save(
        tmp_path / "gallery.npy", (centres[labels] + rng.normal(size=(4000, 16))).astype(np.float32)
    )
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    query = (centres[labels[:300]] + rng.normal(size=(300, 16))).astype(np.float32)
    monkeypatch.setattr(retrieval, "BLOCK", 1000)

    assert retrieval.overlap(query, 10, gallery, "Flat") == 100
    assert retrieval.overlap(query, 10, gallery, "IVF16,Flat", "nprobe=16") == 100
    few, many = (retrieval.overlap(query, 10, gallery, "IVF16,Flat", f"nprobe={n}") for n in (1, 4))
    assert 20 < few < many < 100 and retrieval.overlap(query, 10, gallery, "HNSW16", sample=50) > 80

    exact = retrieval.recall_at_k(query, labels[:300], [1, 5], gallery, labels)
    assert (
        retrieval.recall_at_k(
            query, labels[:300], [1, 5], gallery, labels, "IVF16,Flat", "nprobe=16"
        )
        == exact
    )
    own = retrieval.Index(gallery, "IVF16,Flat", "nprobe=4").nearest(3)
    assert not (own == np.arange(4000)[:, None]).any()
    with pytest.raises(ValueError, match="faiss refuses index 'Flatt'"):
        retrieval.Index(gallery, "Flatt")
    # Fewer found than asked for: -1, and no hit.
    index = retrieval.Index(gallery, "IVF64,Flat", "nprobe=1")
    assert (index.nearest(600, query) == -1).any()
    images = retrieval.RetrievalSet(query, labels[:300], gallery, labels)
    assert 0 < retrieval.evaluate(images, [600], index).r_precision <= 100
