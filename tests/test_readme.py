"""The README's results are the committed reports', and its snippets run."""

import re

import pytest
import torch
from PIL import Image

from mdr_core.data.dataset import load_dataset
from mdr_core.report import readme
from mdr_core.runs.store import RunStore
from mdr_core.search import ImageSearch
from mdr_core.study import profiles


def test_its_generated_parts_are_those_of_the_committed_runs():
    text = (readme.REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name, block in readme.blocks().items():
        assert f"<!-- {name} -->\n" in text and readme.replaced(text, name, block) == text, name


def test_it_stays_within_160_lines_and_its_links_lead_somewhere():
    text = (readme.REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or (readme.REPOSITORY / link).exists(), link


def snippets() -> list[str]:
    return re.findall(
        r"```python\n(.*?)```", (readme.REPOSITORY / "README.md").read_text(), re.DOTALL
    )


def given() -> dict:
    return {
        "torch": torch,
        "device": "cpu",
        "model": torch.nn.Linear(4, 3),
        "images": torch.randn(6, 4),
        "labels": torch.tensor([0, 0, 1, 1, 2, 2]),
        "metric_loss": lambda embeddings, labels: embeddings.square().mean(),
    }


@pytest.mark.parametrize("number", [0, 1])
def test_its_losses_train_a_step(number):
    names = given()
    exec("from mdr_core import MDR, normalize_by_mean_distance\n" + snippets()[number], names)
    names["loss"].backward()
    assert names["mdr"].levels.grad is not None


def test_the_last_snippet_searches_a_kept_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = profiles.QUICK.replace(weights="random", epochs=1, iterations=1)
    record = RunStore(tmp_path / "runs").run(config, files=True)
    images = load_dataset("drawn").test
    ImageSearch.of_run(record, tmp_path / "runs", images).save("outputs/your_images")
    Image.fromarray(images.images[7].permute(1, 2, 0).numpy()).save("photo.jpg")
    exec(snippets()[2], {})
    assert len(snippets()) == 3 and images.class_names[0] in capsys.readouterr().out


def test_its_commands_are_make_s_or_of_the_environment():
    text = (readme.REPOSITORY / "README.md").read_text()
    targets = re.findall(r"^([a-z]+):", (readme.REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert not re.search(
        r"(?<![/\w])(python3? -m|torchrun -|papermill notebooks|dask (scheduler|worker) )", text
    )
    for module in re.findall(r"python -m (mdr_core\.\w+|benchmarks)", text):
        assert (
            (readme.REPOSITORY / f"{module.replace('.', '/')}")
            .with_suffix(".py" if "." in module else "")
            .exists()
        ), module
    for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, target


def test_every_notebook_and_module_is_on_the_map():
    text = (readme.REPOSITORY / "README.md").read_text()
    for path in (readme.REPOSITORY / "notebooks").glob("*.ipynb"):
        assert f"`{path.stem}`" in text, path
    for path in (readme.REPOSITORY / "mdr_core").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py" or (path / "__init__.py").exists():
            assert f"{path.name}`" in text or f"{path.name}/`" in text, path
