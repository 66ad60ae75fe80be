"""What is said before a training begins, and the one display while reports are made."""

import json
from pathlib import Path

import pytest

from mdr_core.report import render
from mdr_core.report.pages import page
from mdr_core.report.progress import Progress
from mdr_core.runs import grids, identity, plan
from mdr_core.runs.store import RunStore
from mdr_core.study import experiments, profiles

TINY = profiles.QUICK.replace(
    weights="random", backbone="small_resnet_narrow", epochs=1, iterations=2, train_images=60
)


@pytest.fixture
def known(monkeypatch):
    """A run like QUICK's takes 0.001 s for each training image: 24 s in all."""
    monkeypatch.setattr(plan, "seconds_an_image", lambda: {("small_resnet", 32, "cpu"): 0.001})


def test_the_time_is_what_committed_runs_took(known):
    assert plan.seconds(profiles.QUICK) == pytest.approx(0.001 * 60 * 40 * 10)
    assert plan.seconds(TINY) is None
    assert (
        plan.line(111, [profiles.QUICK] * 10, 2)
        == "111 runs: 101 stored, 10 to train, about 2 min on 2 processes"
    )
    assert (
        plan.line(5, [profiles.QUICK, TINY], 1)
        == "5 runs: 3 stored, 2 to train, about 24 s and 1 of unknown length"
    )
    assert plan.line(5, [TINY], 1) == "5 runs: 4 stored, 1 to train, of unknown length"
    assert plan.line(5, [], 1) == "5 runs: 5 stored, 0 to train"
    assert [plan.duration(t) for t in (59, 61, 5399, 9000)] == [
        "59 s",
        "1 min",
        "90 min",
        "2.5 hours",
    ]


def test_the_committed_runs_tell_the_time_of_their_profile():
    assert 5 < plan.seconds(profiles.QUICK.replace(mdr_weight=0.2)) < 300


def test_who_edited_the_code_is_told(known, monkeypatch):
    monkeypatch.setattr(identity, "notice", lambda: "mdr_core/losses.py differs")
    assert plan.line(1, [profiles.QUICK], 1).endswith("about 24 s. mdr_core/losses.py differs")


def test_without_training_what_is_not_stored_is_none_and_a_row_without_numbers(tmp_path, capsys):
    RunStore(tmp_path).run(TINY)
    configs = [TINY, TINY.replace(seed=1)]
    found = grids.records(configs, RunStore(tmp_path), train=False)
    assert (
        found[0]["config"]["seed"] == 0
        and found[1] is None
        and len(list(tmp_path.glob("*/run.json"))) == 1
    )
    frame = grids.frame(configs, found, [{"method": "a"}, {"method": "b"}])
    assert (
        frame.stored.tolist() == [True, True, False]
        and frame.epoch.tolist() == [0, 1, 1]
        and frame.method.tolist() == ["a", "a", "b"]
    )
    assert frame["test_recall@1"].isna().tolist() == [False, False, True]
    assert grids.frame(configs[1:], [None])["test_recall@1"].isna().all()
    grids.records(configs, RunStore(tmp_path), jobs=1)
    assert "2 runs: 1 stored, 1 to train" in capsys.readouterr().err


def test_files_are_trained_for_those_that_need_them(tmp_path):
    configs = [TINY, TINY.replace(seed=1)]
    for record in grids.records(configs, RunStore(tmp_path), jobs=1, progress=False):
        path = tmp_path / record["key"] / "run.json"
        path.write_text(
            json.dumps({k: v for k, v in record.items() if k != "key"} | {"files": {}})
        )  # as restored
    seen = []
    found = grids.records(
        configs, RunStore(tmp_path), jobs=1, progress=seen.append, files={configs[1]}
    )
    assert [bool(r["files"]) for r in found] == [False, True] and seen == [configs[1]]


def test_the_plan_is_that_of_the_chosen_notebooks():
    whole = Progress(list(page.ORDER), {"profile": "quick"})
    assert set(whole.configs) == set(experiments.everything("quick"))
    one = Progress(["recall_at_k"], {"profile": "quick", "seeds": [4], "epochs": 2, "jobs": 1})
    assert {(c.seed, c.epochs) for c in one.configs} == {(4, 2)}
    assert not Progress(
        ["recall_at_k"], {"profile": "quick", "methods": ["Triplet"]}
    ).configs  # the notebook says it itself
    assert not Progress(["your_images"], {"profile": "quick"}).configs


def test_one_display_shows_runs_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        experiments,
        "of_notebooks",
        lambda profile, seeds, **changes: {"a": [{"config": TINY.replace(seed=s)} for s in (0, 1)]},
    )
    RunStore(tmp_path).run(TINY)
    with Progress(["a"], {"profile": "quick", "output_root": str(tmp_path), "jobs": 1}) as progress:
        progress.train()
        progress.rendered()
    said = capsys.readouterr().err
    assert (
        "2 runs: 1 stored, 1 to train" in said
        and "0 of 1 runs, 0 of 1 reports" in said
        and "1 of 1 runs, 1 of 1 reports" in said
    )
    assert len(list(tmp_path.glob("*/run.json"))) == 2


def test_with_train_false_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(
        experiments, "of_notebooks", lambda profile, seeds, **changes: {"a": [{"config": TINY}]}
    )
    with Progress(
        ["a"], {"profile": "quick", "output_root": str(tmp_path), "train": False}
    ) as progress:
        progress.train()
    assert not list(tmp_path.glob("*/run.json"))


def test_a_run_that_fails_is_said_and_the_reports_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        experiments,
        "of_notebooks",
        lambda profile, seeds, **changes: {"a": [{"config": TINY.replace(lr=1e30, epochs=2)}]},
    )
    with Progress(["a"], {"profile": "quick", "output_root": str(tmp_path), "jobs": 1}) as progress:
        progress.train()
    assert "the loss became NaN or Inf" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, place",
    [
        ({}, "reports/quick"),
        ({"jobs": 2, "output_root": "elsewhere"}, "reports/quick"),
        ({"mdr_weight": 0.4}, "outputs/reports/quick-mdr_weight=0.4"),
        ({"seeds": [0, 1], "train": False}, "outputs/reports/quick-seeds=[0,1]-train=False"),
    ],
)
def test_pages_under_changed_parameters_go_to_a_place_of_their_own(given, place):
    arguments = render.argparse.Namespace(profile="quick", output=render.REPORTS)
    assert render.place_of(arguments, {"profile": "quick"} | given) == render.REPOSITORY / place
    arguments.output = Path("/elsewhere")
    assert render.place_of(arguments, {"profile": "quick"} | given) == Path("/elsewhere/quick")
