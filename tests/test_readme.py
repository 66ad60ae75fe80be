"""The README's results are the committed reports', and its snippet runs."""

import re

import torch

from mdr_core import readme


def test_results_are_those_of_the_committed_reports():
    assert readme.BLOCK.search((readme.REPOSITORY / "README.md").read_text())[0] == readme.results()


def test_the_snippet_trains_a_step():
    text = (readme.REPOSITORY / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    given = {"torch": torch, "model": torch.nn.Linear(4, 3), "images": torch.randn(6, 4), "labels": None,
             "metric_loss": lambda embeddings, labels: embeddings.square().mean()}
    exec(snippet, given)  # noqa: S102 - the README is ours
    given["loss"].backward()
    assert given["mdr"].levels.grad is not None
