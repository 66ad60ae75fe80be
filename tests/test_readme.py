"""The README's results are the committed reports', and its snippets run."""

import re

import torch
from PIL import Image

from mdr_core.data.dataset import load_dataset
from mdr_core.report import readme
from mdr_core.runs.store import RunStore
from mdr_core.search import ImageSearch
from mdr_core.study import profiles


def test_results_are_those_of_the_committed_reports():
    assert readme.BLOCK.search((readme.REPOSITORY / "README.md").read_text())[0] == readme.results()


def snippets() -> list[str]:
    return re.findall(
        r"```python\n(.*?)```", (readme.REPOSITORY / "README.md").read_text(), re.DOTALL
    )


def test_the_first_snippet_trains_a_step():
    given = {
        "torch": torch,
        "model": torch.nn.Linear(4, 3),
        "images": torch.randn(6, 4),
        "labels": None,
        "metric_loss": lambda embeddings, labels: embeddings.square().mean(),
    }
    exec(snippets()[0], given)
    given["loss"].backward()
    assert given["mdr"].levels.grad is not None


def test_the_second_snippet_searches_a_kept_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = profiles.QUICK.replace(weights="random", epochs=1, iterations=1)
    record = RunStore(tmp_path / "runs").run(config, files=True)
    images = load_dataset("drawn").test
    ImageSearch.of_run(record, tmp_path / "runs", images).save("outputs/your_images")
    Image.fromarray(images.images[7].permute(1, 2, 0).numpy()).save("photo.jpg")
    exec(snippets()[1], {})
    assert len(snippets()) == 2 and images.class_names[0] in capsys.readouterr().out


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
