"""Published runs: found by settings and the dataset's name, with no data, and never overwritten."""

import dataclasses

import pandas as pd
import pytest

from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.profiles import METHODS, PROFILES, QUICK, Setting, Study
from mdr_core.runs import committed, facts, local
from mdr_core.runs.local import tensors
from mdr_core.runs.run import records

TINY = QUICK.replace(
    dataset="drawn", weights="random", backbone="small_resnet_narrow", epochs=1, iterations=2,
    train_images=60,
)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Empty reports and runs, and a profile quick of one short run."""
    monkeypatch.setattr(committed, "REPORTS", tmp_path / "reports")
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MDR_JOBS", "1")
    quick = dataclasses.replace(PROFILES["quick"], settings={"drawn": Setting(TINY, 0.2)})
    monkeypatch.setitem(PROFILES, "quick", quick)
    return tmp_path


@pytest.mark.parametrize("profile", ["full", "photos"])
def test_every_committed_run_is_found_without_data(monkeypatch, tmp_path, profile):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    study = Study(profile)
    [first] = records([study.config(METHODS[0])], missing_too=False)
    rows = pd.read_csv(committed.REPORTS / profile / "runs.csv", dtype=str, keep_default_na=False)
    configs = [Config(**committed.config_of(run)) for _, run in rows.groupby("key")]
    every = records(configs, missing_too=False)
    assert first["key"] in {record["key"] for record in every} == {*rows.key}
    assert all(tensors(r, "findings") for r in every if r["files"])
    assert not (tmp_path / "runs").exists()


def test_a_kept_run_is_read_back_to_the_digit_and_never_overwritten(place):
    with pytest.raises(StudyError, match="make train trains some"):
        committed.main(["--profile", "quick"])
    record = local.train(TINY)
    assert committed.keep("quick") == [TINY]
    [found] = records([TINY.replace(train_images=9)])  # before this machine's own
    assert found["history"] == record["history"] and found["key"] == record["key"]
    assert found["provenance"] == record["provenance"]
    assert tensors(found, "findings").keys() == tensors(record, "findings").keys()
    assert tensors(found, "weights") is None and "reports" in found["files"]["findings"]
    path = place / "reports" / "quick" / "runs.csv"
    before = path.read_bytes()
    for other in (TINY.replace(seed=1), TINY.replace(seed=1, dataset="omniglot")):
        local.train(other.replace(epochs=0))
    assert committed.keep("quick") == [TINY.replace(seed=1, epochs=0)]
    assert path.read_bytes().startswith(before)
    about = facts.about("drawn", record["provenance"]["data"])
    test = load_dataset("drawn").test
    assert about["test_classes"] == list(test.class_names)
    assert about["images"]["test"] == len(test.labels) and len(about["floors"]) == 1
    assert facts.about("drawn", "of another copy") is None


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "key,content\nk,\n"])
def test_a_file_that_is_no_table_of_runs_is_said(place, content):
    path = place / "reports" / "quick" / "runs.csv"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(StudyError, match="is not a table of runs"):
        committed.find(TINY)


@pytest.mark.parametrize(
    ("profile", "stored", "given", "expected"),
    [
        ("quick", None, None, (False, True)),
        ("quick", "1", None, (True, True)),
        ("photos", None, None, (True, False)),
        ("photos", "0", None, (False, True)),
        ("full", None, True, (True, True)),
        ("quick", "1", False, (True, False)),
    ],
)
def test_one_switch_says_what_is_read_and_trained(monkeypatch, profile, stored, given, expected):
    monkeypatch.delenv("STORED", raising=False)
    if stored:
        monkeypatch.setenv("STORED", stored)
    assert tuple(Study(profile, train=given).choice.values()) == expected
    monkeypatch.setenv("STORED", "yes")
    with pytest.raises(StudyError, match="STORED must be 0 or 1, got 'yes'"):
        Study("quick")


def test_edits_against_the_commit_are_told(monkeypatch):
    for said, expected in (("mdr_core/losses.py\n", "mdr_core/losses.py differs"), ("", "")):
        monkeypatch.setattr(local, "git", lambda *asked, said=said: said)
        local.edited.cache_clear()
        assert local.edited().startswith(expected) and bool(local.edited()) == bool(said)
    local.edited.cache_clear()
