"""The README's results are the committed reports', its snippets run, its links lead somewhere."""

import re

import pytest
import torch
from PIL import Image

from mdr_core.files import REPOSITORY
from mdr_core.report import readme
from mdr_core.runs import local
from mdr_core.search import ImageSearch
from mdr_core.study import profiles

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_its_generated_parts_are_those_of_the_committed_runs():
    for name, block in readme.blocks().items():
        assert f"<!-- {name} -->\n" in TEXT and readme.replaced(TEXT, name, block) == TEXT, name


def test_it_stays_within_160_lines_and_what_it_names_is_there():
    assert len(TEXT.splitlines()) <= 160
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert link.startswith("https://") or (REPOSITORY / link).exists(), link
    modules = re.findall(r"python -m (mdr_core\.\w+|benchmarks)", TEXT)
    for path in (REPOSITORY / module.replace(".", "/") for module in modules):
        assert path.exists() or path.with_suffix(".py").exists(), path
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"(?:`|^)make ([a-z]+)", TEXT, re.MULTILINE)} <= {*targets}


@pytest.mark.parametrize("number", [0, 1])
def test_its_losses_train_a_step(number):
    names = {"torch": torch, "device": "cpu", "model": torch.nn.Linear(4, 3)}
    names |= {"images": torch.randn(6, 4), "labels": torch.tensor([0, 0, 1, 1, 2, 2])}
    names["metric_loss"] = lambda embeddings, labels: embeddings.square().mean()
    exec("from mdr_core import MDR, normalize_by_mean_distance\n" + SNIPPETS[number], names)
    names["loss"].backward()
    assert names["mdr"].levels.grad is not None


def test_the_last_snippet_searches_a_kept_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    small = {"backbone": "small_resnet_narrow", "epochs": 0, "train_images": 60}
    config = profiles.QUICK.replace(dataset="drawn", weights="random", **small)
    images = local.dataset(config).test.of_classes(range(4))
    ImageSearch.of_run(local.train(config), images).save("outputs/your_images")
    Image.fromarray(images.images[7].permute(1, 2, 0).numpy()).save("photo.jpg")
    exec(SNIPPETS[2], {})
    assert len(SNIPPETS) == 3 and images.class_names[0] in capsys.readouterr().out
