"""The README's results are the committed reports', its snippets run, its links lead somewhere."""

import re

import pytest
import torch
from PIL import Image

from mdr_core.__main__ import COMMANDS
from mdr_core.files import REPOSITORY
from mdr_core.profiles import QUICK
from mdr_core.report import index
from mdr_core.runs import local
from mdr_core.search import ImageSearch

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_its_results_are_those_of_the_committed_pages(tmp_path, monkeypatch):
    if not (index.REPORTS / "claims.ipynb").exists():
        pytest.skip("until the pages are rendered anew")
    (copy := tmp_path / "README.md").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(index, "README", copy)
    figure = index.REPORTS / index.CURVES
    drawn = figure.read_bytes()
    assert index.main([]) == 0
    assert copy.read_text(encoding="utf-8") == TEXT and figure.read_bytes() == drawn


def test_it_stays_within_140_lines_and_what_it_names_is_there():
    assert len(TEXT.splitlines()) <= 140
    for link in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", TEXT):
        file, _, _ = "".join(link).partition("#")
        assert file.startswith("https://") or (REPOSITORY / file).exists(), link
    assert {*re.findall(r"python -m mdr_core (\w+)", TEXT)} <= {*COMMANDS}
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, re.MULTILINE)} <= {*targets}
    for notebook in (REPOSITORY / "notebooks").glob("*.ipynb"):
        assert f"`{notebook.stem}`" in TEXT or f"/{notebook.name}" in TEXT, notebook.stem


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if "mdr = MDR" in each])
def test_its_losses_train_a_step(snippet):
    names = {"torch": torch, "device": "cpu", "model": torch.nn.Linear(4, 3)}
    names |= {"images": torch.randn(6, 4), "labels": torch.tensor([0, 0, 1, 1, 2, 2])}
    names["metric_loss"] = lambda embeddings, labels: embeddings.square().mean()
    exec("from mdr_core import MDR, normalize_by_mean_distance\n" + snippet, names)
    names["loss"].backward()
    assert names["mdr"].levels.grad is not None


def test_its_snippet_searches_a_kept_index(tmp_path, monkeypatch, capsys):
    [snippet] = [each for each in SNIPPETS if "ImageSearch" in each]
    [folder] = re.findall(r'load\("(.+)"\)', snippet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    small = {"backbone": "small_resnet_narrow", "epochs": 0, "train_images": 60}
    config = QUICK.replace(dataset="drawn", weights="random", **small)
    images = local.dataset(config).test.of_classes(range(4))
    ImageSearch.of_run(local.train(config), images).save(folder)
    Image.fromarray(images.images[7].permute(1, 2, 0).numpy()).save("photo.jpg")
    exec(snippet, {})
    assert images.class_names[0] in capsys.readouterr().out
