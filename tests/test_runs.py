"""This machine's runs: a stored one is read, a killed one resumes, a changed one is refused."""

import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdr_core import profiles, training
from mdr_core.errors import StudyError
from mdr_core.runs import local
from mdr_core.runs.local import tensors
from mdr_core.runs.run import records, run
from tests import trees
from tests.processes import started
from tests.soak import GRID, soak

TINY = profiles.QUICK.replace(
    dataset="drawn", weights="random", backbone="small_resnet_narrow",
    epochs=4, iterations=4, mdr_weight=0.2,
    train_images=100,
)  # fmt: skip
SHORT = TINY.replace(epochs=1, iterations=2)
START = TINY.replace(epochs=0)
own_runs = functools.partial(run, committed_too=False)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder of this machine's runs, which is empty."""
    monkeypatch.setenv("MDR_RUNS", str(tmp_path))
    monkeypatch.setenv("MDR_JOBS", "1")
    return tmp_path


def folder_of(config) -> Path:
    name = local.local_name(config, local.dataset(config).fingerprint)
    return Path(os.environ["MDR_RUNS"]) / name


def killed(epochs: int) -> int:
    """Train TINY in a process that is killed once so many epochs are saved; its exit code."""
    saved, last, path = 0, 0, folder_of(TINY) / "checkpoint.pt"
    with started(local.train, TINY) as process:
        while saved < epochs and process.is_alive():
            with contextlib.suppress(FileNotFoundError):
                if (changed := path.stat().st_mtime_ns) != last:
                    last, saved = changed, saved + 1
            time.sleep(0.005)
        process.kill()
        process.join()
    return process.exitcode


def test_killed_twice_a_run_ends_with_bit_equal_weights(root, monkeypatch):
    for moment in (2, 1):
        assert killed(moment) == -signal.SIGKILL
    broken = local.train(TINY)
    monkeypatch.setenv("MDR_RUNS", str(root / "whole"))
    whole = local.train(TINY)
    assert whole["key"] == broken["key"]
    a, b = tensors(whole, "weights"), tensors(broken, "weights")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    for row in (*whole["history"], *broken["history"]):
        row.pop("seconds")
        row.pop("train_seconds", None)  # epoch 0 has none
    assert whole["history"] == broken["history"]
    assert not list(root.rglob("*.lock")) and not list(root.rglob("checkpoint.pt"))


def test_a_stored_run_is_read_and_a_changed_one_is_refused(root, monkeypatch):
    one = local.train(START)
    with monkeypatch.context() as patch:
        patch.setattr(local, "store", None)  # it is read
        assert local.train(START)["history"] == one["history"]
    path = root / one["key"] / "run.json"
    good = path.read_text()
    for content in (good.replace('"epoch": 0', '"epoch": 7'), "[" * 100_000, "{}", "null", ""):
        path.write_text(content)
        with pytest.raises(StudyError, match="run.json cannot be read"):
            local.train(START)


def test_a_run_without_its_large_files_counts(root):
    """As copied from another machine."""
    record = local.train(START)
    (root / record["key"] / "weights.safetensors").unlink()
    [found] = records([START], committed_too=False)
    assert tensors(found, "weights") is None and tensors(found, "findings")
    path = root / record["key"] / "findings.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StudyError, match="findings.safetensors cannot be read"):
        tensors(found, "findings")


def test_a_system_s_trouble_is_told_and_the_run_stays(root, monkeypatch):
    record = local.train(START)

    def no_more_files(*arguments, **named):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", no_more_files)
        with pytest.raises(StudyError, match="cannot be read .*Too many open files"):
            local.read(root / record["key"])
    path = root / record["key"] / "run.json"
    stored = json.loads(path.read_text())
    stored["config"]["gone"] = 1  # a setting that Config no longer has
    stored["content"] = local.sha256([stored["config"], stored["history"]])
    path.write_text(json.dumps(stored))
    assert local.train(START)["history"] == record["history"]


def test_any_edit_of_the_code_and_another_trainer_get_runs_of_their_own(monkeypatch):
    def by_my_loop(config, data, **others):
        raise AssertionError

    one, text = local.local_name(TINY, "data"), Path.read_text
    assert local.local_name(TINY, "data", by_my_loop) != one
    local.code_digest.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda path, **o: text(path, **o) + "# edited")
    assert local.local_name(TINY, "data") != one
    monkeypatch.undo()
    local.code_digest.cache_clear()


def test_what_only_evaluates_or_is_not_used_enters_no_name():
    plain = TINY.replace(mdr_weight=0.0)
    unused = {"levels": (0.0,), "momentum": 0.5, "statistics": "pairs", "learn_levels": False}
    same = [(TINY, {"ks": (1, 16), "train_images": 9}), (plain, unused | {"level_weight": 1.0})]
    others = [(TINY, change) for change in ({"seed": 1}, {"levels": (0.0,)}, {"mdr_weight": 0.0})]
    for one, change in same + others:
        for name in (local.committed_name, functools.partial(local.local_name, fingerprint="d")):
            assert (name(one.replace(**change)) == name(one)) == ((one, change) in same)


def test_the_table_has_a_row_per_run_and_epoch_and_the_seed_decides_the_run(root, monkeypatch):
    """The released default is random and not recorded; here the same seed gives the same run."""
    table = own_runs([SHORT, SHORT.replace(seed=1)])
    assert table.epoch.tolist() == [0, 1, 0, 1] and table.seed.tolist() == [0, 0, 1, 1]
    assert set(table.loss) == {"triplet"} and table.loss_value[1] > 0
    assert set(table.lr) == {SHORT.lr} and table.epoch_lr[1] == SHORT.lr
    assert table.data.nunique() == 1 and table.key.nunique() == 2 and table.stored.all()
    later = own_runs([SHORT, SHORT.replace(seed=2)], missing_too=False)
    assert later.stored.tolist() == [True, True, False] and later.epoch.tolist() == [0, 1, 1]
    assert later["test_recall@1"].isna().tolist() == [False, False, True]
    monkeypatch.setenv("MDR_RUNS", str(root / "again"))
    again = own_runs([SHORT])
    assert again.loss_value[1] == table.loss_value[1] != table.loss_value[3]


@pytest.mark.parametrize(
    "change, line",
    [
        ({"dataset": "birds"}, "unknown dataset 'birds'"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"loss": "tripled"}, "unknown loss 'tripled'.*triplet"),
        ({"images_per_class": 1}, "images_per_class must be 2 or more"),
        ({"batch_size": 4000}, "set batch_size to at most"),
        ({"lr": 1e30}, r"epoch 1, with lr 1e\+30"),
        ({"loop": "library"}, "needs its function"),
    ],
)
def test_bad_settings_end_in_one_clear_line(root, change, line):
    with pytest.raises(StudyError, match=line) as caught:
        own_runs([SHORT.replace(**change)])
    assert "\n" not in str(caught.value)


def test_runs_of_two_copies_of_the_data_are_never_in_one_table(root):
    one, other = local.train(START), local.train(START.replace(seed=1))
    path = root / other["key"] / "run.json"
    stored = json.loads(path.read_text())
    stored["provenance"]["data"] = "0" * 64
    path.write_text(json.dumps(stored))
    assert len(own_runs([START])) == 1
    with pytest.raises(StudyError, match="two copies of the data.*STORED=0") as caught:
        own_runs([START, START.replace(seed=1)])
    assert one["provenance"]["data"][:8] in str(caught.value)


@pytest.mark.parametrize(
    "kills, grid",
    [(2, GRID[2:]), pytest.param(20, GRID, marks=pytest.mark.long)],
    ids=["2 kills", "20 kills"],
)
def test_killed_again_and_again_a_grid_ends_as_if_it_never_was(kills, grid):
    """The short forms of ``make soak``."""
    assert f"{kills} SIGKILLs" in soak(kills, grid=grid)


def test_an_unwritable_folder_and_a_full_disk_are_said_in_one_line(root, monkeypatch):
    (root / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("MDR_RUNS", str(root / "file" / "runs"))
        with pytest.raises(StudyError, match="cannot be written to.*MDR_RUNS"):
            local.train(START)
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, no_limit[1]))  # as a full disk
    try:
        with pytest.raises(StudyError, match="cannot be written to .File too large.: make room"):
            local.train(START)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    assert not list(root.rglob(".*")) and not list(root.glob("*.lock"))
    assert local.train(START)["history"]  # asked for again, it is trained


def test_images_added_to_a_folder_are_seen_in_the_same_process(tmp_path):
    files = [f"{name}/{number}.png" for name in "abcd" for number in range(3)]
    config = START.replace(dataset=f"folder:{trees.tree(tmp_path, files)}", image_size=16)
    before = local.dataset(config)
    shutil.copy(tmp_path / files[0], tmp_path / "a" / "another.png")
    after = local.dataset(config)
    assert len(after.train.labels) == len(before.train.labels) + 1
    assert after.fingerprint != before.fingerprint


@pytest.fixture
def shared(monkeypatch) -> Iterator[Path]:
    """A folder of runs that everybody reaches; its files may be closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("MDR_RUNS", str(root := Path(name) / "runs"))
        yield root
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


def test_runs_that_are_read_only_are_read_and_nothing_is_trained_there(shared, monkeypatch):
    one, user = local.train(START), os.geteuid()
    for path in (*shared.rglob("*"), shared):
        path.chmod(0o555)
    monkeypatch.setattr(training, "start", None)  # nothing is trained
    try:
        if user == 0:  # who may write anything
            os.seteuid(65534)
        assert local.train(START)["history"] == one["history"]
        assert records([START, SHORT], committed_too=False, missing_too=False)[1] is None
        with pytest.raises(StudyError, match="cannot be written to .Permission denied"):
            local.train(SHORT)
    finally:
        os.seteuid(user)
