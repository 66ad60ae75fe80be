"""Downloading from a server of the test's own: verified, unpacked, and loaded."""

import functools
import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from mdr_core.__main__ import main
from mdr_core.data import catalog
from mdr_core.data.dataset import load_dataset
from tests.trees import cub, products


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The data root."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def served(tmp_path):
    """A folder, and the address under which a server gives out its files."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield tmp_path / "served", f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("name", ["cub200", "sop"])
def test_a_dataset_is_fetched_once_unpacked_and_loaded(served, root, monkeypatch, capsys, name):
    (folder, address), made = served, cub if name == "cub200" else products
    top, kind = made(root.parent / "made"), "gztar" if name == "cub200" else "zip"
    archive = Path(shutil.make_archive(str(folder / name), kind, top.parent, top.name))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(catalog.REMOTE, name, (f"{address}/{archive.name}", md5))
    for _ in range(2):  # what is there is not fetched again
        assert main(["download", name]) == 0
        assert capsys.readouterr().out.endswith(f"{name} is at {root / name}\n")
        archive.unlink(missing_ok=True)
    assert [p.name for p in root.iterdir()] == [name]
    assert len(load_dataset(name, 8).test.labels) == (9 if name == "cub200" else 4)


@pytest.mark.parametrize("content", [b"changed", None])
def test_what_is_not_official_is_thrown_away(served, root, monkeypatch, capsys, content):
    folder, address = served
    if content:
        (folder / "CUB_200_2011.tgz").write_bytes(content)
    monkeypatch.setitem(catalog.REMOTE, "cub200", (f"{address}/CUB_200_2011.tgz", "0" * 32))
    assert main(["download", "cub200"]) == 2
    assert "cub200 cannot be downloaded" in capsys.readouterr().err
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name, line", [
    ("inshop", "under an agreement"), ("cars196", "404 since May 2023"),
])  # fmt: skip
def test_what_cannot_be_fetched_is_said_in_one_line(root, capsys, name, line):
    assert main(["download", name]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and "\n" not in said
    assert str(root / name) in said
