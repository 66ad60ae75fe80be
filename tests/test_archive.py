"""Runs as a CSV and back: the same records; a changed one is refused; weights come by training anew."""

import pytest

from mdr_core import archive, experiments, profiles, runs
from mdr_core.errors import StudyError

TINY = profiles.QUICK.replace(weights="random", epochs=2, iterations=3, mdr_weight=0.2, train_images=100)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, [runs.run(c, root) for c in (TINY, TINY.replace(mdr_weight=0.0, loss="contrastive", levels=(0.0,)))]


def test_the_table_gives_back_the_records(stored, tmp_path):
    _, records = stored
    table = archive.to_table(records)
    assert len(table) == 6
    table.to_csv(tmp_path / "runs.csv", index=False)
    found = archive.from_table(archive.pd.read_csv(tmp_path / "runs.csv", dtype=str, keep_default_na=False))
    for one, two in zip(records, found, strict=True):
        assert {k: one[k] for k in two} == two


def test_a_restored_run_is_read_back_and_gets_its_files_when_asked(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    path = tmp_path / "runs.csv"
    assert archive.main(["export", "--file", str(path), "--output-root", str(root)]) == 0
    assert archive.restore(path, tmp_path / "new") == 1 and archive.restore(path, tmp_path / "new") == 0
    record = runs.run(TINY, tmp_path / "new")
    assert record["files"] == {} and record["history"] == records[0]["history"]
    whole = runs.run(TINY, tmp_path / "new", files=True)
    assert whole["files"] and runs.load_embeddings(whole, tmp_path / "new")["test"].shape == (1500, 64)


def test_a_changed_figure_is_refused(stored, tmp_path):
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
    assert archive.main(["export", "--profile", "quick", "--file", str(tmp_path / "r.csv"), "--output-root", str(tmp_path)]) == 2
    assert "make reports PROFILE=quick" in capsys.readouterr().err
