"""Fetch a dataset's official files: ``python -m mdr_core download cub200``.

An interrupted download resumes. Its checksum is verified. An archive is unpacked into plain files
below the data root, whole or not at all.
"""

import argparse
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from mdr_core.data.catalog import KNOWN, roots
from mdr_core.errors import StudyError, unknown
from mdr_core.files import check_writable, locked

PATIENCE = 60  # seconds without a byte before a server is given up
MOST = 20  # times its own size that an archive may unpack to; photographs hardly shrink
DAMAGED = tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError


class Remote(NamedTuple):
    """An official file: its name, its md5, and the servers that have it, tried in this order."""

    name: str
    md5: str
    servers: tuple[str, ...]


CUB = ("https://data.caltech.edu/records/65de6-vp158/files",)
CARS = "http://ai.stanford.edu/~jkrause/car196", "http://imagenet.stanford.edu/internal/car196"
SOP = "http://ftp.cs.stanford.edu/cs/cvgl", "ftp://cs.stanford.edu/cs/cvgl"
REMOTE = {
    "cub200": (Remote("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", CUB),),
    "cars196": (
        Remote("cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc", CARS),
        Remote("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", CARS),
    ),
    "sop": (Remote("Stanford_Online_Products.zip", "7f73d41a2f44250d4779881525aea32e", SOP),),
}
BY_HAND = {
    "inshop": "In-Shop Clothes is given out under an agreement: ask for it at "
    "mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html, then put Img/img.zip (unpacked, as img/) and "
    "Eval/list_eval_partition.txt into {root}/inshop/"
}


def dataset(name: str, data_root: str | Path | None = None) -> Path:
    """Return a dataset's zip file or folder under the data root; fetch it unless it is there.

    Raises:
        StudyError: an unknown name, one that has to be fetched by hand, or no server that answers.
            A file that is not the official one, or an archive that is not safe to unpack.
    """
    root = roots(data_root)[-1]
    if name in BY_HAND:
        raise StudyError(BY_HAND[name].format(root=root))
    if name not in REMOTE:
        raise unknown("dataset to download", name, [*REMOTE, *BY_HAND])
    files, folder = {root / remote.name: remote for remote in REMOTE[name]}, root / name
    [*_, last] = files
    target = last if last.suffix == ".zip" else folder
    if present(target):
        return target
    check_writable(root, "--data-root")
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # of two processes, one fetches
        if present(target):
            return target
        for file, remote in files.items():
            try:
                fetch(remote, file)
            except StudyError as problem:
                raise StudyError(
                    f"{problem}. If no server has it any more, get {KNOWN[name].origin} elsewhere "
                    f"and put it into {folder} in its official layout"
                ) from None
        if target == folder:
            unpack([*files], folder)
    return target


def present(target: Path) -> bool:
    """Tell whether there is a file, or a folder that is not empty."""
    return any(target.iterdir()) if target.is_dir() else target.exists()


def fetch(remote: Remote, path: Path) -> None:
    """Download one file to ``path``, unless it is there; resume from ``<path>.part``."""
    if path.exists():
        return
    part, problems = path.with_name(f"{path.name}.part"), []
    for url in [f"{server}/{remote.name}" for server in remote.servers]:
        try:
            receive(url, part)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            problems.append(f"{url}: {problem}")
            continue
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found == remote.md5:
            os.replace(part, path)
            return
        part.unlink()
        problems.append(f"{url}: its md5 is {found}, not the official {remote.md5}")
    raise StudyError(
        f"{remote.name} could not be downloaded ({'; '.join(problems)}): try again, it goes on "
        "where it stopped"
    )


def receive(url: str, part: Path) -> None:
    """Append what ``part`` lacks of the file at ``url``; all of it from a server without ranges.

    Raises:
        OSError: no answer, or fewer bytes than were announced.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as problem:
        if problem.code == 416 and have:  # nothing is left to send; the checksum decides
            return
        raise
    with answer:
        if getattr(answer, "status", None) != 206:
            have = 0
        size = have + int(answer.headers.get("Content-Length") or 0)
        bar = {"desc": part.stem, "initial": have, "total": size or None}
        with open(part, "ab" if have else "wb") as file, tqdm.wrapattr(file, "write", **bar) as out:
            shutil.copyfileobj(answer, out, 2**20)
    if part.stat().st_size < size:
        raise OSError(f"the connection ended after {part.stat().st_size} of {size} bytes")


def unpack(files: list[Path], folder: Path) -> None:
    """Unpack .tgz files into a new folder, copy the others there, remove them: all or nothing.

    Raises:
        StudyError: an archive is damaged, holds a link, a device or a path that leaves the folder,
            or unpacks to more than MOST times its size.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        for file in files:
            if file.suffix != ".tgz":
                shutil.copy(file, partial)
                continue
            try:
                with tarfile.open(file, "r:gz") as archive:
                    archive.extractall(partial, safe_members(archive, file), filter="data")
            except DAMAGED as problem:
                raise StudyError(
                    f"{file} cannot be unpacked ({problem}): is the disk full? Else remove it and "
                    "fetch it anew"
                ) from None
        os.replace(partial, folder)
    for file in files:
        file.unlink()


def safe_members(archive: tarfile.TarFile, file: Path) -> Iterator[tarfile.TarInfo]:
    """Yield plain files and folders; tarfile's "data" filter lets some links and any size pass."""
    left = MOST * file.stat().st_size
    for member in tqdm(archive, desc=f"unpacking {file.name}", unit="file", leave=False):
        place = PurePosixPath(member.name)
        if place.is_absolute() or ".." in place.parts or not (member.isreg() or member.isdir()):
            raise StudyError(
                f"{file}: {member.name!r} is a link, a device or leads out of the folder: "
                "not unpacked"
            )
        left -= member.size
        if left < 0:
            raise StudyError(f"{file} would unpack to over {MOST} times its size: not unpacked")
        yield member


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core download", description=__doc__)
    parser.add_argument("dataset", help=", ".join([*REMOTE, *BY_HAND]))
    parser.add_argument("--data-root", help="default: MDR_DATA_ROOT, else data/ in the study")
    given = parser.parse_args(argv)
    print(f"{given.dataset} is at {dataset(given.dataset, given.data_root)}")
    return 0
