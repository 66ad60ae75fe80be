"""The set-up: one list of pins, no host named, notebooks committed as sources."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def names(text: str) -> list[str]:
    """The normalized package names of a requirements file."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines if line]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_lock_pins_every_requirement_once():
    pinned = names(read("requirements.lock"))
    assert len(pinned) == len(set(pinned))
    assert not set(names(read("requirements.in"))) - set(pinned)
    for line in read("requirements.lock").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", line), line


def test_packages_of_one_platform_are_marked():
    for line in read("requirements.lock").splitlines():
        if re.match(r"nvidia-|cuda-|triton=", line):
            assert 'platform_system == "Linux"' in line


def test_conda_users_get_the_same_pins():
    pip_lines = re.findall(r"^ +- (.*)$", read("environment.yml"), re.MULTILINE)
    assert "-r requirements.lock" in pip_lines
    assert "==" not in read("environment.yml")


@pytest.mark.parametrize(
    "name", ["requirements.in", "requirements.lock", "environment.yml", "Makefile", ".ci/run"]
)
def test_no_host_and_no_machine_path(name):
    assert not re.search(r"://|--(extra-)?index-url|--find-links|/home/|/root/", read(name))


def test_pyproject_reads_the_one_list():
    import tomllib

    project = tomllib.loads(read("pyproject.toml"))
    assert "dependencies" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"] == ["requirements.in"]


def test_an_installed_package_has_every_folder():
    import tomllib

    setuptools = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    found = {
        name.replace(".", "/") for name in find_packages(ROOT, **setuptools["packages"]["find"])
    }
    files = [path for path in (ROOT / "mdr_core").rglob("*.*") if path.suffix != ".pyc"]
    files = [path for path in files if path.is_file()]
    python = {path.parent for path in files if path.suffix == ".py"}
    assert found == {path.relative_to(ROOT).as_posix() for path in python}
    data = {
        path
        for name, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / name.replace(".", "/")).glob(pattern)
    }
    assert {path for path in files if path.suffix != ".py"} <= data


def make(*arguments: str) -> subprocess.CompletedProcess:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_make_alone_lists_the_targets():
    listed = make().stdout
    assert listed == make("help").stdout
    for target in ("reports", "test", "lab", "clean"):
        assert f"make {target} " in listed


def test_make_refuses_an_old_python():
    done = make("--always-make", "--dry-run", "test")
    assert "-m pytest" in done.stdout
    done = make("lock", "PYTHON=false")
    assert done.returncode and "Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_a_source(path):
    """No outputs, and the first code cell holds the parameters."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.language == "python"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.get("tags", [])
    assert "profile = " in code[0].source
    assert not any(cell.outputs or cell.execution_count for cell in code)
