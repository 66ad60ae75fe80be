"""The run store: a stored run is read, a killed one resumes, a corrupt one is set aside."""

import contextlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from mdr_core import config, training
from mdr_core.errors import StudyError
from mdr_core.runs import grids, identity, store
from mdr_core.runs.store import RunStore
from mdr_core.study import profiles, statistics
from tests.processes import started
from tests.soak import GRID, soak

TINY = profiles.QUICK.replace(
    weights="random",
    backbone="small_resnet_narrow",
    epochs=4,
    iterations=4,
    mdr_weight=0.2,
    train_images=100,
)


def killed_in(root: Path, epochs: int) -> int:
    """Train TINY in a process that is killed once so many epochs are saved; its exit code."""
    saved, last = 0, 0
    with started(RunStore(root).run, TINY) as process:
        while saved < epochs and process.is_alive():
            for checkpoint in root.glob("*/checkpoint.pt"):
                if checkpoint.stat().st_mtime_ns != last:
                    last, saved = checkpoint.stat().st_mtime_ns, saved + 1
            time.sleep(0.005)
        process.kill()
        process.join()
    return process.exitcode


@pytest.mark.parametrize(
    "moments",
    [(2, 1), pytest.param((1, 2, 1), marks=pytest.mark.long)],
    ids=["twice", "three times"],
)
def test_killed_again_and_again_a_run_ends_with_bit_equal_weights(tmp_path, moments):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for moment in moments:
        assert killed_in(broken, moment) == -signal.SIGKILL
    one, two = RunStore(whole).run(TINY), RunStore(broken).run(TINY)
    assert one["key"] == two["key"]
    a, b = RunStore(whole).weights(one), RunStore(broken).weights(two)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    for record in (one, two):
        for row in record["history"]:
            row.pop("seconds")
            row.pop("train_seconds", None)  # epoch 0 has none
    assert one["history"] == two["history"]
    assert not list(broken.rglob("*.lock")) and not list(broken.rglob("checkpoint.pt"))


def test_a_stored_run_is_read_and_a_changed_one_is_set_aside_not_trusted_not_deleted(
    tmp_path, monkeypatch
):
    short = TINY.replace(epochs=3, iterations=1)
    one = RunStore(tmp_path).run(short)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "_train", None)  # it is read
        assert RunStore(tmp_path).run(short)["history"] == one["history"]
    record = tmp_path / one["key"] / "run.json"
    record.write_text(record.read_text().replace('"epoch": 3', '"epoch": 7'))
    with pytest.warns(UserWarning, match="set aside"):
        assert store.stored(record.parent) is None
    assert (tmp_path / f"{one['key']}.corrupt-1" / "run.json").exists()


@pytest.mark.parametrize("name", store.FILES)
def test_a_run_whose_file_changed_is_set_aside(tmp_path, name):
    record = RunStore(tmp_path).run(TINY.replace(epochs=0))
    path = tmp_path / record["key"] / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=f"{name} has changed.*set aside"):
        assert store.stored(path.parent) is None


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"files": {"/dev/zero": "0"}}', '{"files": []}', "null"]
)
def test_a_record_of_somebody_else_s_making_is_set_aside(tmp_path, content):
    (tmp_path / "0123456789abcdef").mkdir()
    (tmp_path / "0123456789abcdef" / "run.json").write_text(content)
    with pytest.warns(UserWarning, match="set aside"):
        assert store.stored(tmp_path / "0123456789abcdef") is None


def test_a_nan_loss_names_epoch_step_and_settings(tmp_path):
    with pytest.raises(StudyError, match=r"epoch 1, step \d+, with lr 1e\+30"):
        RunStore(tmp_path).run(TINY.replace(lr=1e30))


def test_the_table_has_a_row_per_run_and_epoch(tmp_path):
    configs = [TINY.replace(seed=s, epochs=1, iterations=2) for s in (0, 1)]
    records = grids.records(configs, RunStore(tmp_path), jobs=1, progress=False)
    table = grids.frame(configs, records)
    assert list(table.epoch) == [0, 1, 0, 1] and list(table.seed) == [0, 0, 1, 1]
    assert json.loads((tmp_path / table.key[0] / "run.json").read_text())["provenance"]["data"]


@pytest.mark.parametrize(
    "change, line",
    [
        ({"dataset": "birds"}, "unknown dataset 'birds': choose one of drawn"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'.*resnet18"),
        ({"loss": "tripled"}, "unknown loss 'tripled'.*triplet"),
        ({"images_per_class": 1}, "no two images of a class"),
        ({"batch_size": 4000}, "set batch_size to at most"),
    ],
)
def test_bad_settings_end_in_one_clear_line(tmp_path, change, line):
    with pytest.raises(StudyError, match=line) as caught:
        RunStore(tmp_path).run(TINY.replace(**change))
    assert "\n" not in str(caught.value)


def test_the_key_holds_the_pretraining_that_a_run_starts_from(monkeypatch):
    starts = TINY.replace(weights="classes")
    one = [identity.key_of(c, "data") for c in (starts, TINY)]
    monkeypatch.setattr(config, "PRETRAINING", config.PRETRAINING.replace(epochs=1))
    assert [identity.key_of(c, "data") == k for c, k in zip((starts, TINY), one, strict=True)] == [
        False,
        True,
    ]


def test_the_headline_is_the_final_epoch_and_the_best_on_test_classes_stands_apart():
    rows = [
        {"method": "Triplet", "seed": 0, "key": "k", "epoch": e, "test_recall@1": v}
        for e, v in enumerate((10.0, 60.0, 50.0))
    ]
    frame = pd.DataFrame(rows)
    assert statistics.final(frame)["test_recall@1"].tolist() == [50.0]
    assert statistics.best(frame, "test_recall@1")["test_recall@1"].tolist() == [60.0]


def test_the_seed_is_part_of_the_configuration_and_decides_the_run(tmp_path):
    """The released default is random and not recorded; here the same seed gives the same run."""
    short = TINY.replace(epochs=1, iterations=2)
    one, two, other = (
        RunStore(tmp_path / "a").run(short),
        RunStore(tmp_path / "b").run(short),
        RunStore(tmp_path / "b").run(short.replace(seed=1)),
    )
    assert one["config"]["seed"] == 0 and other["config"]["seed"] == 1
    losses = [record["history"][-1]["loss"] for record in (one, two, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "kills, grid",
    [(2, GRID[2:]), pytest.param(20, GRID, marks=pytest.mark.long)],
    ids=["2 kills", "20 kills"],
)
def test_killed_again_and_again_a_grid_ends_as_if_it_never_was(kills, grid):
    """The short forms of ``make soak``."""
    assert f"{kills} SIGKILLs" in soak(kills, grid=grid)


def test_an_unwritable_store_and_a_full_disk_are_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written.*output_root"):
        RunStore(tmp_path / "file" / "runs").run(TINY)
    short = TINY.replace(epochs=1, iterations=2)
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, no_limit[1])
    )  # as a full disk: no file may grow beyond this
    try:
        with pytest.raises(
            StudyError,
            match="cannot be written to.*: File too large; make room, or set output_root",
        ):
            RunStore(tmp_path).run(short)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    assert not list(tmp_path.rglob(".*")) and not list(tmp_path.glob("*.lock"))
    assert (
        RunStore(tmp_path).run(short)["history"][-1]["epoch"] == 1
    )  # asked for again, it is trained


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 torn", b"\x80\x04.", b"not a checkpoint" * 100]
)
def test_a_torn_checkpoint_is_set_aside(tmp_path, content):
    short = TINY.replace(epochs=1, iterations=2)
    folder = RunStore(tmp_path).folder(short)
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(content)
    with pytest.warns(UserWarning, match="its checkpoint cannot be read"):
        assert RunStore(tmp_path).run(short)["history"][-1]["epoch"] == 1
    assert (tmp_path / f"{folder.name}.corrupt-1" / "checkpoint.pt").read_bytes() == content


@pytest.mark.parametrize("problem", [MemoryError, torch.OutOfMemoryError])
def test_a_checkpoint_outlives_want_of_memory(tmp_path, monkeypatch, problem):
    def resume(trainer, state):
        raise problem

    short = TINY.replace(epochs=1, iterations=2)
    folder = RunStore(tmp_path).folder(short)
    folder.mkdir()
    torch.save({}, folder / "checkpoint.pt")
    monkeypatch.setattr(training.Trainer, "resume", resume)
    with pytest.raises(problem):
        RunStore(tmp_path).run(short)
    assert (folder / "checkpoint.pt").exists() and not list(tmp_path.glob("*.corrupt-*"))


def test_a_dead_process_s_lock_and_a_clock_that_jumps_do_not_matter(tmp_path, monkeypatch):
    short = TINY.replace(epochs=1, iterations=2)
    folder = RunStore(tmp_path).folder(short)
    folder.with_suffix(".lock").write_text("of a process that is no more")
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(store.time, "time", lambda: float(next(times)))  # backwards
    assert RunStore(tmp_path).run(short)["history"][-1]["epoch"] == 1
    assert not list(tmp_path.glob("*.lock"))


@contextlib.contextmanager
def everybody() -> Iterator[None]:
    """This process with everybody's rights: root may write and read anything."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A run store that everybody reaches; its files may be closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (root := Path(name) / "runs").mkdir()
        yield root
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


SHORT = TINY.replace(epochs=0)


def test_a_store_that_is_read_only_is_read_and_says_at_once_that_it_cannot_train(
    shared, monkeypatch
):
    other, spoilt = SHORT.replace(seed=1), SHORT.replace(seed=2)
    one, open_store = RunStore(shared).run(SHORT), RunStore(shared)
    copy = shutil.copytree(shared / one["key"], open_store.folder(spoilt))
    (copy / "run.json").write_text("{}")
    for path in (*shared.rglob("*"), shared):
        path.chmod(0o555)
    monkeypatch.setattr(RunStore, "_train", None)  # nothing is trained
    with everybody():
        store = RunStore(shared)
        assert store.run(SHORT)["history"] == one["history"] == store.read(SHORT)["history"]
        assert store.weights(store.read(SHORT, files=True))
        assert grids.records([SHORT, other], store, train=False) == [store.read(SHORT), None]
        with pytest.warns(UserWarning, match="is corrupt.*it stays in .*Permission denied"):
            assert store.read(spoilt) is None
        line = "cannot be written to.*: Permission denied; make room, or set output_root"
        for missing in (other, spoilt):
            with warnings.catch_warnings(), pytest.raises(StudyError, match=line):
                warnings.simplefilter("ignore")
                store.run(missing)


def test_somebody_else_s_unfinished_run_is_told_before_any_training(shared, monkeypatch):
    shared.chmod(0o777)
    RunStore(shared).folder(SHORT).mkdir(mode=0o555)
    monkeypatch.setattr(training, "start", None)  # not even a network is made
    with everybody(), pytest.raises(StudyError, match="cannot be written to.*Permission denied"):
        RunStore(shared).run(SHORT)


def test_what_may_not_be_read_is_not_taken_for_corrupt(shared):
    folder = RunStore(shared).folder(SHORT)
    folder.mkdir()
    (folder / "run.json").touch(mode=0)
    shared.chmod(0o777)
    with everybody(), pytest.raises(StudyError, match="Permission denied.*let it be read, or set"):
        RunStore(shared).run(SHORT)
    assert [*shared.iterdir()] == [folder]
