"""Runs as a CSV and back: the same records; a changed one is refused; weights need training."""

import pytest
import torch

from mdr_core import config
from mdr_core.data import fingerprint
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.runs import identity, store
from mdr_core.runs.store import RunStore
from mdr_core.study import archive, experiments, profiles

TINY = profiles.QUICK.replace(
    weights="random", epochs=2, iterations=3, mdr_weight=0.2, train_images=100
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, [
        RunStore(root).run(c)
        for c in (TINY, TINY.replace(mdr_weight=0.0, loss="contrastive", levels=(0.0,)))
    ]


def test_the_table_gives_back_the_records(stored, tmp_path):
    _, records = stored
    table = archive.to_table(records)
    assert len(table) == 6
    table.to_csv(tmp_path / "runs.csv", index=False)
    found = archive.from_table(
        archive.pd.read_csv(tmp_path / "runs.csv", dtype=str, keep_default_na=False)
    )
    for one, two in zip(records, found, strict=True):
        assert two.pop("findings") == one["files"][store.FINDINGS]
        assert {k: one[k] for k in two} == two


def test_a_restored_run_is_read_back_and_gets_its_files_when_asked(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    path = tmp_path / "runs.csv"
    assert archive.main(["export", "--file", str(path), "--output-root", str(root)]) == 0
    for _ in range(2):
        assert (
            archive.restore(path, tmp_path / "new")
            == f"1 runs restored to {tmp_path / 'new'}, all found by this installation"
        )
    record = RunStore(tmp_path / "new").run(TINY)
    assert record["files"] == {} and record["history"] == records[0]["history"]
    whole = RunStore(tmp_path / "new").run(TINY, files=True)
    assert whole["files"] and RunStore(tmp_path / "new").embeddings(whole)["test"].shape == (
        1500,
        64,
    )


def test_a_changed_number_is_refused(stored, tmp_path):
    table = archive.to_table(stored[1])
    table.loc[1, "test_recall@1"] = "99.9"
    table.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(StudyError, match="has changed"):
        archive.restore(tmp_path / "runs.csv", tmp_path / "new")
    table = archive.to_table(stored[1]).assign(key="../elsewhere")
    table.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(StudyError, match="is not the key of a run"):
        archive.restore(tmp_path / "runs.csv", tmp_path / "new")
    with pytest.raises(StudyError, match="there is no"):
        archive.restore(tmp_path / "none.csv", tmp_path / "new")


def test_an_empty_store_exports_nothing(tmp_path, capsys):
    assert (
        archive.main(
            [
                "export",
                "--profile",
                "quick",
                "--file",
                str(tmp_path / "r.csv"),
                "--output-root",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "make reports PROFILE=quick" in capsys.readouterr().err


def test_the_findings_of_table_1_come_along(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    monkeypatch.setattr(experiments, "table1", lambda *asked, **changes: [{"config": TINY}])
    archive.export("quick", tmp_path / "runs.csv", root)
    archive.restore(tmp_path / "runs.csv", tmp_path / "new")
    record = RunStore(tmp_path / "new").run(TINY)
    found, own = (RunStore(tmp_path / "new").findings(record), RunStore(root).findings(records[0]))
    assert (
        found.keys() == own.keys() == {"centers", "nearest", "distances", "first_right", "labels"}
    )
    assert all(torch.equal(found[name], own[name]) for name in own)
    [path] = (tmp_path / "findings").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match="is absent or has changed"):
        archive.restore(tmp_path / "runs.csv", tmp_path / "newer")


def test_what_this_installation_does_not_find_is_counted_by_its_reason(
    stored, tmp_path, monkeypatch
):
    root, _ = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    archive.export("quick", tmp_path / "runs.csv", root)
    for change, reason in (
        ((fingerprint, "DRAWING", 2), "1 for other data (drawn has other images"),
        ((identity, "number_version", lambda: None), "1 for other code ("),
        ((config, "PRETRAINING", None), "all found"),  # it does not start from it
        ((store, "cached_dataset", absent), "1 for the data (dataset drawn is not here)"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            if hasattr(store.cached_dataset, "cache_clear"):
                store.cached_dataset.cache_clear()
            assert reason in archive.restore(tmp_path / "runs.csv", tmp_path / "new")
    store.cached_dataset.cache_clear()


def absent(name, data_root, image_size):
    raise StudyError(f"dataset {name} is not here")


def test_older_records_lack_what_was_not_recorded_then(stored, tmp_path):
    """As the runs of commit a320032 do: no findings, no numbers by class."""
    _, records = stored
    old = [
        record
        | {"files": {}, "history": [epoch.without_by_class(row) for row in record["history"]]}
        for record in records
    ]
    old = [
        record | {"content": store.content_of(record["config"], record["history"])}
        for record in old
    ]
    archive.to_table(old).to_csv(tmp_path / "runs.csv", index=False)
    assert "all found" in archive.restore(tmp_path / "runs.csv", tmp_path / "new")
    record = RunStore(tmp_path / "new").run(TINY)
    assert (
        RunStore(tmp_path / "new").findings(record) is None
        and "test_class_right" not in record["history"][-1]
    )
    assert "test_class_right" in records[0]["history"][-1]
