"""The set-up: one list of pins, a wheel that works anywhere, notebooks committed as sources."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import nbformat
import pytest

import mdr_core

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WHEEL = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q"]
USE = """
import json, sys
import torch, numpy
before = {name.partition(".")[0] for name in sys.modules}
import mdr_core
mdr_core.MDR()(torch.randn(4, 2)).backward()
needed = {name.partition(".")[0] for name in sys.modules} - before
from mdr_core import files
own = [str(path) for path in (files.REPOSITORY, files.cache_root(), files.runs_root())]
print(json.dumps([mdr_core.__file__, sorted(needed), own]))
"""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_the_lock_pins_every_requirement_once():
    lines = [line for line in read("requirements.lock").splitlines() if line[0] != "#"]
    pinned = [name_of(line) for line in lines]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = {name_of(each) for each in project["dependencies"] + extras["study"] + extras["test"]}
    assert len(pinned) == len(set(pinned)) and not wanted - {*pinned, "mdr-study"}
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", line), line
        if re.match(r"nvidia-|cuda-|triton=", line):
            assert 'platform_system == "Linux"' in line


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "Makefile", ".ci/run"])
def test_no_host_and_no_machine_path(name):
    assert not re.search(r"://|--(extra-)?index-url|--find-links|/home/|/root/", read(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The folder that holds an unpacked wheel of this checkout."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mdr_core", source / "mdr_core", ignore=without)
    subprocess.run([*WHEEL, "-w", str(source)], cwd=source, check=True)
    with zipfile.ZipFile(next(source.glob("*.whl"))) as archive:
        archive.extractall(site)
    return site


def test_a_wheel_has_every_file_and_needs_torch_and_numpy(wheel):
    source = {path.relative_to(ROOT) for path in (ROOT / "mdr_core").rglob("*") if path.is_file()}
    built = {path.relative_to(wheel) for path in (wheel / "mdr_core").rglob("*") if path.is_file()}
    assert built == {path for path in source if path.suffix != ".pyc"}
    (about,) = wheel.glob("*.dist-info/METADATA")
    metadata = message_from_bytes(about.read_bytes())
    assert metadata["Version"] == mdr_core.__version__
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(needed) == ["numpy", "torch"]
    assert {"study", "test"} == set(metadata.get_all("Provides-Extra"))


def test_an_installed_package_works_in_the_working_directory(wheel, tmp_path):
    (work := tmp_path / "work").mkdir()
    environment = {name: value for name, value in os.environ.items() if name[:4] != "MDR_"}
    environment |= {"PYTHONPATH": str(wheel), "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=work, env=environment, check=True, capture_output=True
    )
    file, needed, folders = json.loads(done.stdout)
    assert file == str(wheel / "mdr_core" / "__init__.py") and needed == ["mdr_core"]
    assert folders == [str(work), str(tmp_path / ".cache" / "mdr-study"), str(work / "runs")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_a_source(path):
    """No outputs; the first code cell holds the parameters, but for that of the whole study."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.language == "python"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parameters = "parameters" in code[0].metadata.get("tags", []) and "profile = " in code[0].source
    assert parameters or path.stem == "claims"
    assert not any(cell.outputs or cell.execution_count for cell in code)
