"""Released checkpoints: fetched by name, checked, evaluated; here a random one of that layout."""

import re
from pathlib import Path

import pytest
import torch

from mdr_core import released
from mdr_core.__main__ import main
from tests import trees
from tests.test_bn_inception import filled_state


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A server of one checkpoint, as a folder, and CUB-200-2011 with few images."""
    (tmp_path / "cub200").mkdir()
    torch.save(filled_state(), tmp_path / "cub200" / "cub200.pth")
    monkeypatch.setattr(released, "AT", f"file://{tmp_path}/{{0}}/{{0}}.pth")
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:cub200 has .* officially")
def test_a_checkpoint_is_fetched_by_name_and_evaluated(folder, capsys):
    trees.cub(folder / "data", each=3)
    assert main(["released", "cub200"]) == 0
    raw, l2, file = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".+/cache/cub200.pth, sha256 [0-9a-f]{64}", file)
    for line, kind in ((raw, "raw"), (l2, "L2")):
        values = [float(value) for value in re.findall(r"@\d+ ([\d.]+) %", line)]
        assert line.startswith(kind) and len(values) == 4
        assert values == sorted(values) and 0 < values[-1] <= 100


def test_what_is_wrong_is_said_in_one_line(folder, capsys):
    torch.save({"linear.weight": torch.zeros(2, 2)}, folder / "other.pth")
    torch.save(filled_state() | {"linear.weight": torch.zeros(64, 3)}, folder / "head.pth")
    for arguments, line in (
        (["sop"], "fetch file://"),
        (["sop", "--checkpoint", "other.pth"], "cannot be loaded"),
        (["sop", "--checkpoint", "head.pth"], "size mismatch"),
        (["sop", "--checkpoint", __file__], "is no state dict"),
    ):
        assert main(["released", *arguments]) == 2
        said = capsys.readouterr().err
        assert line in said and len(said.splitlines()) == 1
    assert not list(Path("cache").iterdir())


def test_ctrl_c_ends_a_command_in_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt(*arguments)

    monkeypatch.setattr(released, "main", interrupted)
    for arguments in ([], ["interrupted: 8 of 127 runs are stored"]):
        assert main(["released", *arguments]) == 130
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("".join(arguments) or "interrupted")
