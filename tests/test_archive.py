"""Runs as a CSV and back: the same records; a changed one is refused; weights need training."""

import contextlib
import random
import zipfile
from pathlib import Path

import pytest
import torch

from mdr_core import config
from mdr_core.__main__ import main
from mdr_core.config import from_dict
from mdr_core.data import fingerprint
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.runs import executors, identity, store
from mdr_core.runs.store import RunStore
from mdr_core.study import archive, experiments, profiles, train

TINY = profiles.QUICK.replace(
    weights="random", epochs=2, iterations=3, mdr_weight=0.2, train_images=100
)

OTHER = TINY.replace(mdr_weight=0.0, loss="contrastive", levels=(0.0,))
THIRD = TINY.replace(mdr_weight=0.3)
LONG = TINY.replace(epochs=1000)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, [RunStore(root).run(config) for config in (TINY, OTHER)]


def written(records: list[dict], folder: Path, **cells: str) -> Path:
    """Records as an archive holds them, without files; ``cells`` replaces whole columns."""
    folder.mkdir(exist_ok=True)
    archive.to_table(records).assign(**cells).to_csv(folder / "runs.csv", index=False)
    return folder


def test_the_table_gives_back_the_records(stored, tmp_path):
    root, records = stored
    packed = [archive.packed(record, RunStore(root), tmp_path) for record in records]
    assert len(archive.to_table(packed)) == 6
    for one, two in zip(records, archive.read(written(packed, tmp_path) / "runs.csv"), strict=True):
        assert two.pop("findings") == one["files"][store.FINDINGS] and two.pop("weights") is None
        assert {k: one[k] for k in two} == two


def test_a_restored_run_is_read_and_gets_its_files_when_needed(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    folder, new = tmp_path / "archive", RunStore(tmp_path / "new")
    places = ["--profile", "photos", "--folder", str(folder), "--output-root", str(root)]
    assert main(["archive", "export", *places]) == 0
    for _ in range(2):
        line = f"1 runs restored to {new.root}, all found by this installation"
        assert archive.restore(folder, new) == line
    record = new.run(TINY)
    assert record["files"] == {} and record["history"] == records[0]["history"]
    assert new.embeddings(new.run(TINY, files=True))["test"].shape == (1500, 64)


def test_an_export_keeps_what_the_store_lacks(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY, OTHER])
    folder, one = tmp_path / "archive", RunStore(tmp_path / "one")
    assert archive.export("quick", folder, RunStore(root)) == 2
    archive.restore(written(records[:1], tmp_path / "first"), one)
    assert archive.export("quick", folder, one) == 2
    assert [r["key"] for r in archive.read(folder / "runs.csv")] == [r["key"] for r in records]


def test_runs_are_packed_there_and_taken_here(stored, tmp_path, monkeypatch, capsys):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY, OTHER])
    here, folder, file = RunStore(tmp_path / "here"), tmp_path / "archive", tmp_path / "new.zip"
    written(records[1:], folder)  # the other one is committed
    assert archive.pack([TINY, OTHER], RunStore(root), file, folder / "runs.csv") == 1
    command = ["archive", "take", str(file), "--profile", "quick", "--folder", str(folder)]
    assert main([*command, "--output-root", str(here.root)]) == 0
    assert "1 runs restored" in capsys.readouterr().out
    assert {r["key"] for r in archive.read(folder / "runs.csv")} == {r["key"] for r in records}
    record = here.read(TINY)
    assert record["history"] == records[0]["history"] and here.findings(record) is not None
    half, whole = here.weights(record), RunStore(root).weights(records[0])
    assert half["linear.weight"].dtype == torch.float16  # the first run with MDR has its weights
    assert torch.allclose(half["linear.weight"].float(), whole["linear.weight"], atol=1e-3)
    assert here.read(TINY, files=True) is None  # but no embeddings
    archive.export("quick", folder, RunStore(root))
    with pytest.raises(StudyError, match="nothing to pack"):
        archive.pack([TINY, OTHER], RunStore(root), file, folder / "runs.csv")
    file.write_bytes(b"not a zip")
    assert main(command) == 2 and "cannot be read" in capsys.readouterr().err


def test_training_stops_when_its_minutes_are_over_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "REPOSITORY", tmp_path)  # where nothing is committed
    monkeypatch.setattr(experiments, "everything", lambda profile: [LONG])
    command = ["train", "--jobs", "1", "--output-root", str(tmp_path / "runs")]
    pack = ["--pack", str(tmp_path / "new.zip")]
    assert main([*command, "--minutes", "0.05", *pack]) == 2
    said = capsys.readouterr().err
    assert "1 to train" in said and "0.05 minutes are over" in said and "nothing to pack" in said
    assert main([*command, "--minutes", "0"]) == 2 and "must be positive" in capsys.readouterr().err


def test_what_is_committed_is_not_trained_and_one_failed_run_stops_no_other(
    stored, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "REPOSITORY", tmp_path)
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY, OTHER, THIRD])
    (tmp_path / "reports").mkdir()
    written([record | {"findings": ""} for record in stored[1][:1]], tmp_path / "reports/quick")
    real = RunStore.run

    def run(self, config, *arguments):
        if config == OTHER:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, config, *arguments)

    monkeypatch.setattr(RunStore, "run", run)
    command = ["train", "--jobs", "1", "--output-root", str(tmp_path / "runs")]
    assert main([*command, "--pack", str(tmp_path / "packs/new.zip")]) == 2
    said = capsys.readouterr()
    assert "3 runs: 1 stored, 2 to train" in said.err and "too little memory for drawn" in said.err
    assert "loss contrastive" in said.err and "1 runs packed" in said.out
    assert not list((tmp_path / "packs").glob(".*"))
    assert main([*command, "--pack", str(tmp_path / "packs")]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_failure_is_told_when_the_minutes_end_before_the_others(capsys):
    def work(config, files):
        raise train.TimeIsUp if config == OTHER else StudyError("the loss became NaN")

    with pytest.raises(train.TimeIsUp):
        executors.train_all(work, {TINY: False, OTHER: False}, executors.Here())
    assert "seed 0 failed: the loss became NaN" in capsys.readouterr().err


def test_a_stored_run_with_other_numbers_stays(stored, tmp_path):
    own = RunStore(tmp_path / "own")
    history = [row | {"test_recall@1": 12.5} for row in stored[1][0]["history"]]
    content = store.content_of(stored[1][0]["config"], history)
    other = stored[1][0] | {"history": history, "content": content, "findings": ""}
    assert "all found" in archive.restore(written([other], tmp_path / "first"), own)
    said = archive.restore(written([stored[1][0] | {"findings": ""}], tmp_path / "second"), own)
    assert "1 of them were trained to other numbers here, which stay" in said
    assert own.read(TINY)["history"] == history


def test_only_the_headline_s_first_run_is_packed_with_weights(stored, tmp_path):
    root, file, committed = stored[0], tmp_path / "new.zip", tmp_path / "runs.csv"
    RunStore(root).run(THIRD)
    for first, second in ((TINY, THIRD), (THIRD, TINY)):
        archive.pack([OTHER, first, second], RunStore(root), file, committed)
        with zipfile.ZipFile(file) as packed:
            weights = [n for n in packed.namelist() if n.startswith("weights/") and n[-1] != "/"]
        assert weights == [f"weights/{RunStore(root).read(first)['key']}.safetensors"]
    written(stored[1][:1], tmp_path)  # the headline's is committed: nothing else has weights
    archive.pack([TINY, OTHER, THIRD], RunStore(root), file, committed)
    with zipfile.ZipFile(file) as packed:
        assert not any(name.startswith("weights/") for name in packed.namelist())


def test_a_damaged_pack_is_one_clear_line(stored, tmp_path):
    file, new = tmp_path / "new.zip", RunStore(tmp_path / "new")
    archive.pack([TINY, OTHER], RunStore(stored[0]), file, tmp_path / "none")
    whole, draw = file.read_bytes(), random.Random(0)
    for _ in range(60):
        place = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with contextlib.suppress(StudyError):
            archive.take(file, new)
    for record in stored[1]:
        found = new.read(from_dict(record["config"]))
        assert found is None or found["history"] == record["history"]


def test_a_changed_number_is_refused(stored, tmp_path):
    new = RunStore(tmp_path / "new")
    table = archive.to_table([record | {"findings": ""} for record in stored[1]])
    table.loc[1, "test_recall@1"] = "99.9"
    table.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(StudyError, match="has changed"):
        archive.restore(tmp_path, new)
    with pytest.raises(StudyError, match="is not the key of a run"):
        archive.restore(written(stored[1], tmp_path, key="../elsewhere"), new)
    with pytest.raises(StudyError, match="there is no"):
        archive.restore(tmp_path / "none", new)


def test_an_empty_store_exports_nothing(tmp_path, capsys):
    command = ["archive", "export", "--profile", "quick", "--folder", str(tmp_path)]
    assert main([*command, "--output-root", str(tmp_path)]) == 2
    assert "make reports PROFILE=quick" in capsys.readouterr().err


def test_the_findings_of_table_1_come_along(stored, tmp_path, monkeypatch):
    root, records = stored
    monkeypatch.setattr(experiments, "everything", lambda profile: [TINY])
    monkeypatch.setattr(experiments, "table1", lambda *asked, **changes: [{"config": TINY}])
    archive.export("quick", tmp_path, RunStore(root))
    new = RunStore(tmp_path / "new")
    archive.restore(tmp_path, new)
    found, own = new.findings(new.run(TINY)), RunStore(root).findings(records[0])
    assert (
        found.keys() == own.keys() == {"centers", "nearest", "distances", "first_right", "labels"}
    )
    assert all(torch.equal(found[name], own[name]) for name in own)
    [path] = (tmp_path / "findings").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match="is absent or has changed"):
        archive.restore(tmp_path, RunStore(tmp_path / "newer"))


def test_what_this_installation_does_not_find_is_counted_by_its_reason(
    stored, tmp_path, monkeypatch
):
    written(stored[1][:1], tmp_path)
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
            assert reason in archive.restore(tmp_path, RunStore(tmp_path / "new"))
    store.cached_dataset.cache_clear()


def absent(name, data_root, image_size):
    raise StudyError(f"dataset {name} is not here")


def test_older_records_lack_what_was_not_recorded_then(stored, tmp_path):
    """As the runs of commit a320032 do: no findings, no numbers by class."""
    old, new = [], RunStore(tmp_path / "new")
    for record in stored[1]:
        history = [epoch.without_by_class(row) for row in record["history"]]
        content = store.content_of(record["config"], history)
        old.append(record | {"history": history, "content": content})
    assert "all found" in archive.restore(written(old, tmp_path), new)
    record = new.run(TINY)
    assert new.findings(record) is None and "test_class_right" not in record["history"][-1]
    assert "test_class_right" in stored[1][0]["history"][-1]
