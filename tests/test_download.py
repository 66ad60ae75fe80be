"""Downloading from a server of the test's own: verified, unpacked safely, and loaded."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from mdr_core.__main__ import main
from mdr_core.data import catalog, download
from mdr_core.data.dataset import load_dataset
from tests.trees import cub, products, refused, zipped


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``files``, at most ``cut`` bytes of each."""

    files: dict[str, bytes] = {}
    asked: list[str] = []
    cut = None

    def do_GET(self):
        self.asked.append(self.path)
        if self.path not in self.files:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.files[self.path])))
        self.end_headers()
        self.wfile.write(self.files[self.path][: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The data root."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def serve(monkeypatch):
    """Return a function that puts a file on a server of the test's own as a dataset's."""
    Handler.files, Handler.asked, Handler.cut = {}, [], None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()

        def put(name: str, file: str, content: bytes) -> None:
            Handler.files[f"/{file}"] = content
            url = f"http://127.0.0.1:{running.server_port}/{file}"
            monkeypatch.setitem(download.REMOTE, name, (url, hashlib.md5(content).hexdigest()))

        yield put
        running.shutdown()


def packed(folder, name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder, name)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["cub200", "sop"])
def test_a_dataset_is_fetched_once_unpacked_and_loaded(serve, root, tmp_path, name, capsys):
    if name == "cub200":
        serve(name, "CUB_200_2011.tgz", packed(cub(tmp_path), "CUB_200_2011"))
    else:
        serve(name, "SOP.zip", zipped(products(tmp_path), tmp_path / "SOP.zip").read_bytes())
    for _ in range(2):
        assert main(["download", name]) == 0
        assert capsys.readouterr().out.endswith(f"{name} is at {root / name}\n")
    assert [p.name for p in root.iterdir()] == [name]
    asked = len(Handler.asked)
    assert len(load_dataset(name, 8).test.labels) == (9 if name == "cub200" else 4)
    download.dataset(name)
    assert len(Handler.asked) == asked  # what is there is not fetched again


@pytest.mark.parametrize("fault", ["other content", "cut", "gone"])
def test_what_is_not_whole_and_official_is_thrown_away(serve, root, fault):
    serve("cub200", "CUB_200_2011.tgz", b"official" * 10)
    Handler.cut = 9 if fault == "cut" else None
    Handler.files = {} if fault == "gone" else {"/CUB_200_2011.tgz": b"changed!" * 10}
    line = refused(download.dataset, "cub200")
    assert "CUB_200_2011.tgz could not be fetched" in line and str(root / "cub200") in line
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("kind", ["up", "link"])
def test_an_archive_that_leads_out_is_not_unpacked(serve, root, tmp_path, kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("../outside.txt" if kind == "up" else "link")
        if kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    serve("cub200", "CUB_200_2011.tgz", stream.getvalue())
    assert "could not be fetched" in refused(download.dataset, "cub200")
    assert [p.name for p in tmp_path.rglob("*")] == ["data"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("inshop", ("under an agreement", "list_eval_partition.txt")),
        ("cars196", ("404 since May 2023", "cars_annos.mat")),
        ("birds", ("unknown dataset to download 'birds'",)),
        ("sop", ("SOP.zip could not be fetched", "Stanford Online Products")),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(root, monkeypatch, capsys, name, lines):
    monkeypatch.setitem(download.REMOTE, "sop", ("http://127.0.0.1:9/SOP.zip", "0"))
    assert main(["download", name]) == 2
    said = capsys.readouterr().err.strip()
    assert all(line in said for line in lines) and "\n" not in said
    assert name == "birds" or str(root / name) in said


def test_an_absent_dataset_names_the_command_that_fetches_it():
    assert set(catalog.DOWNLOADS) == set(download.REMOTE)
    assert "make download DATASET=cub200 fetches it" in refused(load_dataset, "cub200")
