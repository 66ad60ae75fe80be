"""Downloading from a server of the test's own: resumed, verified, unpacked safely, and loaded."""

import hashlib
import http.server
import io
import random
import tarfile
import threading
from pathlib import Path

import pytest

from mdr_core.__main__ import main
from mdr_core.data import catalog, download
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from tests.test_data import cars_tree, cub_tree, small_is_expected  # noqa: F401 - the last is a fixture


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; sends at most ``cut`` bytes of each and knows byte ranges, or does not."""

    files, ranges, cut, asked = {}, True, None, []

    def do_GET(self):
        content, wanted = self.files.get(self.path), self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if content is None:
            return self.send_error(404)
        start = (
            int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        )
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on the loopback, and its address."""
    Handler.files, Handler.ranges, Handler.cut, Handler.asked = {}, True, None, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))


def tgz(**members) -> bytes:
    """An archive of members: content, or a tarfile.TarInfo."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tree_tgz(folder: Path, name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder, name)
    return stream.getvalue()


def remote(server: str, name: str, content: bytes) -> download.Remote:
    Handler.files[f"/{name}"] = content
    return download.Remote(name, hashlib.md5(content).hexdigest(), (server,))


def test_cub_is_fetched_unpacked_and_loaded(server, tmp_path, monkeypatch):
    packed = tree_tgz(cub_tree(tmp_path / "made"), "CUB_200_2011")
    monkeypatch.setitem(download.REMOTE, "cub200", (remote(server, "CUB_200_2011.tgz", packed),))
    root = tmp_path / "data"
    assert download.dataset("cub200", root) == root / "cub200"
    assert sorted(p.name for p in root.iterdir()) == ["cub200"]
    assert len(load_dataset("cub200", root, 8).test.labels) == 9
    download.dataset("cub200", root)
    assert len(Handler.asked) == 1  # what is there is not fetched again
    (tmp_path / "other" / "cub200").mkdir(parents=True)  # an empty folder is not a dataset
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / "other"))  # where it would be looked for
    assert len(load_dataset("cub200", download.dataset("cub200").parent, 8).test.labels) == 9


def test_cars_is_two_files(server, tmp_path, monkeypatch):
    top = cars_tree(tmp_path / "made", "legacy")
    annotated = remote(server, "cars_annos.mat", (top / "cars_annos.mat").read_bytes())
    monkeypatch.setitem(
        download.REMOTE,
        "cars196",
        (annotated, remote(server, "car_ims.tgz", tree_tgz(top / "car_ims", "car_ims"))),
    )
    download.dataset("cars196", tmp_path / "data")
    assert len(load_dataset("cars196", tmp_path / "data", 8).train.labels) == 8


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    content = bytes(range(256)) * 5000
    wanted = remote(server, "file.zip", content)
    Handler.cut = 400_000
    with pytest.raises(StudyError, match="ended after 400000 of 1280000 bytes"):
        download.fetch(wanted, tmp_path / "file.zip")
    Handler.cut = None
    download.fetch(wanted, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == content
    assert [asked for _, asked in Handler.asked] == [None, "bytes=400000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.zip"]


@pytest.mark.parametrize(
    ("ranges", "begun"),
    [(False, 1000), (True, 4000)],
    ids=["a server without ranges", "all of it was there"],
)
def test_what_is_there_already_never_spoils_the_file(server, tmp_path, ranges, begun):
    content = b"abcd" * 1000
    Handler.ranges = ranges
    (tmp_path / "file.zip.part").write_bytes(content[:begun])
    download.fetch(remote(server, "file.zip", content), tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == content


def test_another_content_than_the_official_one_is_thrown_away(server, tmp_path):
    wanted = remote(server, "file.zip", b"official")
    Handler.files["/file.zip"] = b"changed!"
    with pytest.raises(StudyError, match="md5 is .* not the official"):
        download.fetch(wanted, tmp_path / "file.zip")
    assert list(tmp_path.iterdir()) == []


def test_the_next_server_is_tried(server, tmp_path):
    wanted = remote(server, "file.zip", b"official")
    download.fetch(wanted._replace(servers=(f"{server}/gone", server)), tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == b"official"


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        {"../outside.txt": b"x"},
        {"/outside.txt": b"x"},
        {"a/../../outside.txt": b"x"},
        {"link": special("link", tarfile.SYMTYPE, "/etc")},
        {"hard": special("hard", tarfile.LNKTYPE, "a")},
        {"pipe": special("pipe", tarfile.FIFOTYPE)},
        {"zeros": bytes(10**7)},
    ],
    ids=["up", "absolute", "up inside", "symbolic link", "hard link", "pipe", "bomb"],
)
def test_unsafe_archives_are_not_unpacked(tmp_path, members):
    root = tmp_path / "data"
    root.mkdir()
    (root / "file.tgz").write_bytes(tgz(**{"good.txt": b"x" * 2000}, **members))
    with pytest.raises(StudyError, match="not unpacked"):
        download.unpack([root / "file.tgz"], root / "set")
    assert [p.name for p in tmp_path.rglob("*")] == ["data", "file.tgz"]


def test_a_damaged_archive_is_one_clear_line(tmp_path):
    (tmp_path / "file.tgz").write_bytes(
        tgz(**{"good.txt": random.Random(0).randbytes(3000)})[:2000]
    )
    with pytest.raises(StudyError, match="cannot be unpacked"):
        download.unpack([tmp_path / "file.tgz"], tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("inshop", "under an agreement"),
        ("cub50", "unknown dataset to download 'cub50'"),
        ("sop", "Stanford_Online_Products.zip could not be downloaded"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(tmp_path, monkeypatch, capsys, name, line):
    nowhere = download.Remote("Stanford_Online_Products.zip", "0", ("http://127.0.0.1:9",))
    monkeypatch.setitem(download.REMOTE, "sop", (nowhere,))
    assert main(["download", name, "--data-root", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and "\n" not in said


def test_an_absent_dataset_names_the_command_that_fetches_it(tmp_path):
    assert set(catalog.DOWNLOADS) == set(download.REMOTE)
    with pytest.raises(StudyError, match="make download DATASET=cub200 fetches it"):
        load_dataset("cub200", tmp_path)
