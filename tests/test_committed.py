"""Published runs: found by settings and the dataset's name, with no data, and never overwritten."""

import pandas as pd
import pytest

from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.runs import committed, local, names
from mdr_core.runs.local import tensors
from mdr_core.runs.run import records
from mdr_core.study import data_facts, evidence, experiments, keep, profiles, train

TINY = profiles.QUICK.replace(
    dataset="drawn",
    weights="random",
    backbone="small_resnet_narrow",
    epochs=1,
    iterations=2,
    train_images=60,
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
    configs = [Config(**committed.config_of(run)) for _, run in rows.groupby("key")]
    every = records(configs, missing_too=False)
    assert {record["key"] for record in every} == keys
    assert all(tensors(r, "findings") for r in every if r["files"])
    assert not (tmp_path / "runs").exists()


def test_a_kept_run_is_read_back_to_the_digit_and_never_overwritten(place):
    with pytest.raises(StudyError, match="make train PROFILE=quick"):
        keep.main(["--profile", "quick"])
    record = local.train(TINY)
    assert keep.keep("quick") == 1 and keep.keep("quick") == 0
    [found] = records([TINY.replace(ks=(1, 2))])  # before this machine's own
    assert found["history"] == record["history"] and found["key"] == record["key"]
    assert found["provenance"] == record["provenance"]
    assert tensors(found, "findings").keys() == tensors(record, "findings").keys()
    assert tensors(found, "weights") is None and "reports" in found["files"]["findings"]
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
    assert tuple(profiles.choice(profile, given).values()) == expected
    monkeypatch.setenv("STORED", "yes")
    with pytest.raises(StudyError, match="STORED must be 0 or 1, got 'yes'"):
        profiles.choice("quick")


def test_edits_against_the_commit_are_told(monkeypatch):
    for said, expected in (("mdr_core/losses.py\n", "mdr_core/losses.py differs"), ("", "")):
        monkeypatch.setattr(names, "git", lambda *asked, said=said: said)
        names.edited.cache_clear()
        assert names.edited().startswith(expected) and bool(names.edited()) == bool(said)
    names.edited.cache_clear()


def test_an_old_name_of_a_backbone_is_read_as_timm_s():
    rows = pd.DataFrame([{"config.backbone": "efficientnet_lite0", "config.dim": "8"}])
    assert committed.config_of(rows) == {"backbone": "tf_efficientnet_lite0", "dim": 8}
