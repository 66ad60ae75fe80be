"""Published runs: found by settings and the dataset's name, with no data, and never overwritten."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from mdr_core.config import from_dict
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.runs import committed, local, names
from mdr_core.runs.local import tensors
from mdr_core.runs.run import records
from mdr_core.study import data_facts, evidence, experiments, keep, profiles, train

TINY = profiles.QUICK.replace(
    weights="random", backbone="small_resnet_narrow", epochs=1, iterations=2, train_images=60
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Empty reports and runs, and one run wanted by the profile quick."""
    monkeypatch.setattr(committed, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(keep, "REPOSITORY", tmp_path)
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MDR_JOBS", "1")
    monkeypatch.setattr(evidence, "wanted", lambda profile: [TINY])
    monkeypatch.setattr(experiments, "table1", lambda *asked: [{"config": TINY}])
    return tmp_path


@pytest.mark.parametrize("profile", ["full", "photos"])
def test_every_committed_run_is_found_without_data(monkeypatch, tmp_path, profile):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    rows = pd.read_csv(committed.REPORTS / profile / "runs.csv", dtype=str, keep_default_na=False)
    keys = set(rows.key)
    found = records(experiments.everything(profile), missing_too=False)
    assert {record["key"] for record in found if record} <= keys
    configs = [from_dict(committed.config_of(run)) for _, run in rows.groupby("key")]
    every = records(configs, missing_too=False)
    assert {record["key"] for record in every} == keys
    assert all(tensors(r, "findings") for r in every if r["files"])
    assert not (tmp_path / "runs").exists()


def test_a_kept_run_is_read_back_to_the_digit_and_never_overwritten(place):
    record = local.train(TINY)
    assert keep.keep("quick") == 1 and keep.keep("quick") == 0
    found = committed.find(TINY.replace(ks=(1, 2)))
    assert found["history"] == record["history"] and found["key"] == record["key"]
    assert found["provenance"] == record["provenance"]
    assert tensors(found, "findings").keys() == tensors(record, "findings").keys()
    assert tensors(found, "weights") is None
    path = place / "reports" / "quick" / "runs.csv"
    before = path.read_bytes()
    local.train(other := TINY.replace(seed=1))
    assert keep.add([local.train(TINY), local.train(other)], path.parent, set()) == 1
    assert path.read_bytes().startswith(before)
    about = data_facts.about("drawn", record["provenance"]["data"])
    test = load_dataset("drawn").test
    assert about["test_classes"] == list(test.class_names)
    assert about["images"]["test"] == len(test.labels)
    assert data_facts.about("drawn", "of another copy") is None


def test_nothing_to_keep_is_said(place):
    with pytest.raises(StudyError, match="make train PROFILE=quick"):
        keep.main(["--profile", "quick"])


def test_a_committed_run_goes_before_this_machine_s_own(place, monkeypatch):
    local.train(TINY)
    keep.keep("quick")
    monkeypatch.setattr(local, "find", None)
    [found] = records([TINY])
    assert "reports" in found["files"]["findings"]
    monkeypatch.undo()


def test_train_lists_what_is_missing_trains_it_and_goes_on(place, monkeypatch, capsys):
    asked = [TINY, TINY.replace(seed=1)]
    monkeypatch.setattr(evidence, "wanted", lambda profile: asked)
    assert train.main(["--profile", "quick", "--minutes", "5"]) == 0
    assert "seed 1" in capsys.readouterr().err
    assert len(list((place / "runs").glob("*/run.json"))) == 2
    assert train.main(["--profile", "quick"]) == 0 and not capsys.readouterr().err
    with pytest.raises(StudyError, match="minutes must be positive"):
        train.main(["--minutes", "-1"])
    monkeypatch.setattr(evidence, "wanted", lambda profile: [TINY.replace(epochs=500)])
    assert train.main(["--profile", "quick", "--minutes", "0.02"]) == 0
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["key\n", "a,b\n1,2\n", "key,content\nk,\n"])
def test_a_file_that_is_no_table_of_runs_is_said(place, content):
    path = place / "reports" / "quick" / "runs.csv"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    if content == "key\n":
        assert committed.find(TINY) is None
        return
    with pytest.raises(StudyError, match="is not a table of runs"):
        committed.find(TINY)


@pytest.mark.parametrize(
    ("profile", "stored", "train_them", "expected"),
    [
        ("quick", None, None, (False, True)),
        ("quick", "1", None, (True, True)),
        ("photos", None, None, (True, False)),
        ("photos", "1", None, (True, False)),
        ("photos", "0", None, (False, True)),
        ("full", None, True, (True, True)),
        ("quick", "1", False, (True, False)),
    ],
)
def test_one_switch_says_what_is_read_and_trained(
    monkeypatch, profile, stored, train_them, expected
):
    monkeypatch.delenv("STORED", raising=False)
    if stored:
        monkeypatch.setenv("STORED", stored)
    assert tuple(profiles.choice(profile, train_them).values()) == expected


def test_another_value_of_the_switch_is_refused(monkeypatch):
    monkeypatch.setenv("STORED", "yes")
    with pytest.raises(StudyError, match="STORED must be 0 or 1, got 'yes'"):
        profiles.choice("quick")


def test_edits_against_the_commit_are_told(monkeypatch):
    monkeypatch.setattr(names, "git", lambda *asked: "mdr_core/losses.py\n")
    names.edited.cache_clear()
    assert "mdr_core/losses.py differs from the commit" in names.edited()
    monkeypatch.setattr(names, "git", lambda *asked: "")
    names.edited.cache_clear()
    assert names.edited() == ""
    names.edited.cache_clear()


def test_an_old_name_of_a_backbone_is_read_as_timm_s():
    rows = pd.DataFrame([{"config.backbone": "efficientnet_lite0", "config.dim": "8"}])
    assert committed.config_of(rows) == {"backbone": "tf_efficientnet_lite0", "dim": 8}
    record = {"key": "k", "config": replace(TINY).to_dict(), "history": [{"epoch": 0, "a": [1.5]}]}
    record |= {"content": "c", "provenance": {"data": "d"}, "files": {}}
    again = committed.from_rows(pd.DataFrame(keep.to_rows(record)), committed.REPORTS)
    assert json.loads(json.dumps(record["config"])) == json.loads(json.dumps(again["config"]))
    assert again["history"] == record["history"]
