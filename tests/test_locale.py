"""JSON and CSV are UTF-8 under every locale: what one machine writes, another one reads."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from mdr_core.errors import StudyError
from mdr_core.report import tables
from mdr_core.runs import executors, plan
from mdr_core.study import archive

NAME = "Ärger − 鳥 ± “x”"
RECORD = {
    "key": "0123456789abcdef",
    "config": {"dataset": NAME},
    "history": [{"epoch": 0}],
    "content": NAME,
    "provenance": {"device": NAME},
    "findings": None,
    "weights": None,
}


class Store:
    """A run store in which no run ends well."""

    def read(self, config, files):
        return None

    def run(self, config, files):
        raise StudyError(NAME)


class Torchrun:
    """Runs what torchrun would start in this process."""

    def __init__(self, command, **options):
        options["stdout"].write(NAME.encode())
        self.task = command[-1]

    def wait(self):
        executors.main(self.task)


def use(folder: Path) -> None:
    """Write and read files that hold NAME."""
    tables.save(pd.DataFrame({"class": [NAME], NAME: [0.5]}), folder / "table.csv")
    archive.write(folder / "runs.csv", archive.to_table([RECORD]).to_csv(index=False))
    assert archive.read(folder / "runs.csv") == [RECORD]
    assert plan.seconds_an_image()  # from the committed tables
    executors.subprocess = SimpleNamespace(Popen=Torchrun)
    try:
        executors.train_shared(2, Store(), None)
    except StudyError as problem:
        (folder / "said.txt").write_bytes(str(problem).encode())


def test_files_are_the_same_under_every_locale(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(executors, "subprocess", None)  # and so put back
    use(here)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    root = Path(__file__).resolve().parents[1]
    script = "import sys, pathlib; from tests import test_locale; import locale; "
    script += "assert locale.getpreferredencoding(False) not in ('utf-8', 'UTF-8'); "
    script += "test_locale.use(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(there)]
    subprocess.run(command, cwd=root, env={**os.environ, **ascii_only}, check=True)
    assert (there / "said.txt").read_text(encoding="utf-8") == NAME
    names = sorted(path.name for path in here.iterdir())
    assert names == ["runs.csv", "said.txt", "table.csv"]
    for name in names:
        assert (here / name).read_bytes() == (there / name).read_bytes()
