"""A rerun names what it changed; several lie side by side. Its runs are made here, untrained."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from mdr_core.__main__ import main
from mdr_core.report import notebook, reruns
from mdr_core.report.reruns import OWN, RERUN
from mdr_core.runs import committed, names
from mdr_core.runs import run as runs
from mdr_core.study import experiments, profiles
from mdr_core.study.profiles import L2, MDR, METHODS, TRIPLET

QUERIES = [20, 30, 50, 40]  # of four test classes
MORE = {L2: 10, MDR: 14, TRIPLET: 8}  # right answers in each class, by method


@pytest.fixture
def store(tmp_path, monkeypatch) -> dict:
    found: dict = {}  # the committed runs, by name; there are no others
    monkeypatch.setattr(committed, "find", lambda c: found.get(names.committed_name(c)))
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STORED", "1")
    monkeypatch.setattr(runs, "edited", lambda: "")
    return found


def put(store: dict, grid: list[dict], more: int = 0) -> None:
    """Store a run for each row: ``more`` right answers in each class, and one more each seed."""
    for row in grid:
        right = [MORE[row["method"]] + more + row["seed"] * (1 + (more > 0))] * len(QUERIES)
        last = {"epoch": row["config"].epochs, "test_recall@1": 100 * sum(right) / sum(QUERIES)}
        last |= {"test_class_queries": QUERIES, "test_class_right": right}
        record = {"key": names.committed_name(row["config"]), "config": row["config"].to_dict()}
        record |= {"history": [last], "content": "", "provenance": {"data": "d"}, "files": {}}
        store[record["key"]] = record


def table1(seeds: list[int], **changes) -> list[dict]:
    return experiments.table1("quick", ["drawn"], list(METHODS), seeds, **changes)


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_every_run_knows_the_run_that_the_profile_has_in_its_place(profile):
    changes = {"mdr_weight": 0.1, "epochs": 3, "lr": 7e-4}
    own, changed = (experiments.of_notebooks(profile, seeds=[0], **some) for some in ({}, changes))
    for name in own.keys() - {"recall_at_k", "claims"}:  # which have rows beyond their first grid
        assert all(row["config"] == row["own"] for row in own[name] if not row["config"].hold_out)
        expected = {(reruns.experiment(row), row["config"].dataset): row for row in own[name]}
        for row in changed[name]:
            place = expected[reruns.experiment(row), row["config"].dataset]
            assert row["own"] == place["config"], (name, reruns.experiment(row))


def test_every_changed_parameter_is_named_with_both_values():
    grid = experiments.table1("full", ["cub200", "cars196"], list(METHODS), [0], mdr_weight=0.4)
    defaults = {"methods": [*METHODS], "seeds": [], "search": True, "lr": -1.0, "save_root": ""}
    given = {"methods": [L2, MDR], "seeds": [0], "search": True, "lr": -1.0, "save_root": "x"}
    assert reruns.changes(grid, given | {"defaults": defaults}) == [
        {"parameter": "mdr_weight", OWN: "0.6 (cub200), 0.2 (cars196)", RERUN: "0.4"},
        {"parameter": "methods", OWN: ", ".join(METHODS), RERUN: f"{L2}, {MDR}"},
        {"parameter": "seeds", OWN: "the profile's own", RERUN: "0"},
    ]
    grid = experiments.table1("full", ["cub200"], [MDR], [0], mdr_weight=0.6)
    assert reruns.changes(grid, {}) == []


def shown(monkeypatch, grid: list[dict], **given) -> list[dict]:
    """Return what a notebook with this grid displays, from its main table on."""
    found: list = []
    monkeypatch.setattr(notebook, "display", lambda data, **options: found.append(data))
    defaults = {"profile": "quick", "mdr_weight": -1.0, "seeds": [], "train": None}
    values = defaults | given | {"train": False}
    report = notebook.Report(SimpleNamespace(**values, defaults=defaults))
    report.run(grid)
    report.finding("It rose.", "up")
    report.table(pd.DataFrame({"Recall@1": [0.5]}), "main", "The notebook's own table.")
    return found


def test_changes_are_shown_and_notebooks_lie_side_by_side(store, monkeypatch, tmp_path, capsys):
    """Where one changes a parameter, another's cell has the profile's own value."""
    monkeypatch.setenv("COLUMNS", "500")
    own, grid = table1([0, 1]), table1([0, 1], mdr_weight=0.1)
    put(store, own)
    put(store, grid[2:3] + grid[5:], 3)
    both = shown(monkeypatch, own), shown(monkeypatch, grid, mdr_weight=0.1)
    assert [len(found) for found in both] == [2, 4]  # the table and the finding, and two more
    assert "What this rerun changes" in str(both[1][2])
    assert all(word in str(both[1][3]) for word in ("mdr_weight", ">0.2<", ">0.1<"))
    paths = [str(tmp_path / name) for name in ("own.ipynb", "less.ipynb")]
    for path, found in zip(paths, both, strict=True):
        cell = new_code_cell(outputs=[new_output("display_data", data=data) for data in found])
        Path(path).write_text(writes(new_notebook(cells=[new_markdown_cell("# Does it?"), cell])))
    assert main(["compare", *paths, "--output", str(tmp_path / "new" / "all.csv")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and "+21.4" in printed[2]
    table = pd.read_csv(tmp_path / "new" / "all.csv")
    assert list(table.mdr_weight) == [0.2, 0.1] and list(table.notebook) == paths
    # MDR − L2: four right answers more in each of four classes, of 140 queries; then 3 + seed more
    expected = [100 * 4 * 4 / 140, 100 * 4 * 7.5 / 140]
    assert list(table["drawn: MDR − L2, mean"]) == pytest.approx(expected)
    assert list(table["drawn: MDR − L2, n"]) == [2, 2]
    assert (table["drawn: MDR − L2, low"] < expected).all()
    assert (table["drawn: MDR − L2, high"] > expected).all()


@pytest.mark.parametrize("text", ["", "{}", '{"cells": [{"outputs": 1}]}'])
def test_what_is_no_executed_notebook_ends_in_one_line(text, tmp_path, capsys):
    (tmp_path / "x.ipynb").write_text(text)
    for path in ("x.ipynb", "none.ipynb"):
        assert main(["compare", str(tmp_path / path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "is no executed notebook of this study" in said
