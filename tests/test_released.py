"""Released checkpoints: fetched by name, checked, evaluated; here a random one of that layout."""

from pathlib import Path

import pytest
import torch

from mdr_core.__main__ import main
from mdr_core.errors import StudyError
from mdr_core.study import profiles, released
from tests.test_bn_inception import filled_state
from tests.test_data import cub_tree


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of one checkpoint, as a folder, and torch.hub's folder."""
    (tmp_path / "cub200").mkdir()
    torch.save(filled_state(), tmp_path / "cub200" / "cub200.pth")
    monkeypatch.setattr(released, "AT", f"file://{tmp_path}/{{0}}/{{0}}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:cub200 has .* officially")
def test_a_checkpoint_is_fetched_by_name_and_judged(hub, capsys):
    cub_tree(hub / "data", each=3)
    assert released.main(["cub200", "--data-root", str(hub / "data"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "raw" in said and "sha256" in said and "mdr-cub200.pth" in said
    table = released.evaluate(
        "cub200", hub / "hub" / "checkpoints" / "mdr-cub200.pth", data_root=str(hub / "data")
    )
    assert (
        table.K.tolist() == [1, 2, 4, 8]
        and table.raw.is_monotonic_increasing
        and table.raw.iloc[-1] > 0
    )


def test_what_is_wrong_is_said_in_one_line(hub, capsys):
    for name, line in (
        ("birds", "unknown checkpoint 'birds'"),
        ("sop", "give its path as --checkpoint"),
    ):
        assert main(["released", name, "--device", "cpu"]) == 2
        assert line in capsys.readouterr().err
    torch.save({"linear.weight": torch.zeros(2, 2)}, hub / "other.pth")
    for file, line in (
        (hub / "other.pth", "not a released MDR checkpoint"),
        (Path(__file__), "cannot be read safely|not a state dict"),
    ):
        with pytest.raises(StudyError, match=line):
            released.network(
                file, profiles.config("paper", "cub200", "Triplet + MDR", device="cpu")
            )
