"""This machine's runs: a stored one is read, a killed one resumes, a changed one is refused."""

import functools
import json
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from mdr_core import profiles
from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.runs import local
from mdr_core.runs.local import tensors
from mdr_core.runs.run import records, run
from tests import trees
from tests.processes import started

TINY = profiles.QUICK.replace(
    dataset="drawn", weights="random", backbone="small_resnet_narrow",
    epochs=4, iterations=4, mdr_weight=0.2,
    train_images=100,
)  # fmt: skip
SHORT = TINY.replace(epochs=1, iterations=2)
START = TINY.replace(epochs=0)
GRID = [TINY.replace(seed=s) for s in range(3)] + [TINY.replace(normalization="l2", mdr_weight=0.0)]
own_runs = functools.partial(run, committed_too=False)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder of this machine's runs, which is empty."""
    monkeypatch.setenv("MDR_RUNS", str(tmp_path))
    monkeypatch.setenv("MDR_JOBS", "1")
    return tmp_path


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
    same = [(TINY, {"train_images": 9}), (plain, unused | {"level_weight": 1.0})]
    others = [(TINY, change) for change in ({"seed": 1}, {"ks": (1, 16)}, {"levels": (0.0,)})]
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
    with pytest.raises(StudyError, match="several copies of the data.*STORED=0") as caught:
        own_runs([START, START.replace(seed=1)])
    assert one["provenance"]["data"][:8] in str(caught.value)


def train(grid: list[Config]) -> None:
    records(grid, committed_too=False)


def results(root: Path) -> dict:
    """Return run -> its history without the clock, and its files' checksums."""
    found = {}
    for path in root.glob("*/run.json"):
        history = json.loads(path.read_text())["history"]
        history = [{k: v for k, v in row.items() if "seconds" not in k} for row in history]
        files = {each.name: each.read_bytes() for each in path.parent.glob("*.safetensors")}
        found[path.parent.name] = json.dumps(history), files
    return found


def finished(root: Path, expected: dict) -> None:
    """Nothing differs from the uninterrupted grid, and nothing else stays behind."""
    assert results(root) == expected
    files = {path.name for path in root.rglob("*") if path.is_file()}
    assert files <= {"run.json", *(f"{name}.safetensors" for name in local.FILES)}
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "kills, grid",
    [(2, GRID[2:]), pytest.param(50, GRID, marks=pytest.mark.long)],
    ids=["2 kills", "50 kills"],
)
def test_killed_again_and_again_a_grid_ends_as_if_it_never_was(root, monkeypatch, kills, grid):
    draw, landed, began = random.Random(0), 0, time.perf_counter()
    train(grid)
    took, expected = time.perf_counter() - began, results(root)
    assert len(expected) == len(grid)
    monkeypatch.setenv("MDR_RUNS", str(again := root / "again"))
    while landed < kills:
        with started(train, grid) as process:
            process.join(draw.uniform(0, took / 2))
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL:
            landed += 1
        else:  # the grid has ended before the moment came
            finished(again, expected)
    train(grid)
    finished(again, expected)


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
