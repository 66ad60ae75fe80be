"""Fetch a dataset's official files: ``python -m mdr_core download cub200``, or ``make download DATASET=cub200``.

A download that was interrupted is taken up where it stopped, its checksum is verified, and what was packed is unpacked
into plain files below the data root, whole or not at all.
"""

import argparse
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from mdr_core.data.catalog import KNOWN, roots
from mdr_core.errors import StudyError, unknown
from mdr_core.files import locked

PATIENCE = 60  # seconds without a byte before a server is given up
MOST = 20  # times its own size that an archive may unpack to; photographs hardly shrink


class Remote(NamedTuple):
    """One official file: where it is served (tried in this order), its md5 and the name under which it is kept."""

    urls: tuple[str, ...]
    md5: str
    name: str


CARS = "http://ai.stanford.edu/~jkrause/car196/", "http://imagenet.stanford.edu/internal/car196/"
REMOTE = {
    "cub200": (
        Remote(
            ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            "97eceeb196236b17998738112f37df78",
            "CUB_200_2011.tgz",
        ),
    ),
    "cars196": (
        Remote(
            tuple(host + "cars_annos.mat" for host in CARS),
            "b407c6086d669747186bd1d764ff9dbc",
            "cars_annos.mat",
        ),
        Remote(
            tuple(host + "car_ims.tgz" for host in CARS),
            "d5c8f0aa497503f355e17dc7886c3f14",
            "car_ims.tgz",
        ),
    ),
    "sop": (
        Remote(
            (
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
            ),
            "7f73d41a2f44250d4779881525aea32e",
            "Stanford_Online_Products.zip",
        ),
    ),
}
BY_HAND = {
    "inshop": "In-Shop Clothes is given out under an agreement: ask for it at mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html, "
    "then put Img/img.zip (unpacked, as img/) and Eval/list_eval_partition.txt into {root}/inshop/"
}


def dataset(name: str, data_root: str | Path | None = None) -> Path:
    """The files of a dataset under ``data_root`` (else ``MDR_DATA_ROOT``, else data/ in the study), fetched unless they are
    there: a zip file, which is read as it is, or a folder.

    Raises:
        StudyError: an unknown name, one that has to be fetched by hand (how is said), no server that answers, a file
            that is not the official one, or an archive that is not safe to unpack.
    """
    root = roots(data_root)[-1]
    if name in BY_HAND:
        raise StudyError(BY_HAND[name].format(root=root))
    if name not in REMOTE:
        raise unknown("dataset to download", name, [*REMOTE, *BY_HAND])
    files, folder = REMOTE[name], root / name
    zipped = files[0].name.endswith(".zip")
    target = root / files[0].name if zipped else folder
    if there(target):
        return target
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # of two processes, one fetches
        if there(target):
            return target
        for remote in files:
            try:
                fetch(remote, root / remote.name)
            except StudyError as problem:
                raise StudyError(
                    f"{problem}. If no server has it any more, get {KNOWN[name][5]} elsewhere and put it "
                    f"into {folder} in its official layout"
                ) from None
        if not zipped:
            unpack([root / remote.name for remote in files], folder)
    return target


def there(target: Path) -> bool:
    """A file, or a folder that is not empty."""
    return any(target.iterdir()) if target.is_dir() else target.exists()


def fetch(remote: Remote, path: Path) -> None:
    """Download one file to ``path``, unless it is there; what an interrupted call left in ``<path>.part`` is gone on with."""
    if path.exists():
        return
    part, problems = path.with_name(f"{path.name}.part"), []
    for url in remote.urls:
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
        f"{remote.name} could not be downloaded ({'; '.join(problems)}): try again, it goes on where it stopped"
    )


def receive(url: str, part: Path) -> None:
    """What ``part`` lacks of the file at ``url``, appended to it; all of it from a server that cannot go on.

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
        kept = have if getattr(answer, "status", None) == 206 else 0
        left = int(answer.headers.get("Content-Length") or 0)
        bar = tqdm(
            desc=part.stem, initial=kept, total=kept + left or None, unit="B", unit_scale=True
        )
        with open(part, "ab" if kept else "wb") as file, bar:
            while block := answer.read(2**20):
                file.write(block)
                bar.update(len(block))
    if part.stat().st_size < kept + left:
        raise OSError(f"the connection ended after {part.stat().st_size} of {kept + left} bytes")


def unpack(files: list[Path], folder: Path) -> None:
    """Unpack .tgz files into a new ``folder``, copy the others there, then remove them all; all of it happens or nothing.

    Raises:
        StudyError: an archive holds a link, a device or a path that leaves the folder, unpacks to more than MOST times
            its size, or is damaged.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        for file in files:
            if not file.name.endswith(".tgz"):
                shutil.copy(file, partial)
                continue
            try:
                with tarfile.open(file, "r:gz") as archive:
                    write_members(archive, partial, MOST * file.stat().st_size, file)
            except (tarfile.TarError, zlib.error, EOFError, OSError) as problem:
                raise StudyError(
                    f"{file} cannot be unpacked ({problem}): is the disk full? Else remove it and fetch it anew"
                ) from None
        os.replace(partial, folder)
    for file in files:
        file.unlink()


def write_members(archive: tarfile.TarFile, folder: Path, most: int, file: Path) -> None:
    """The plain files of an archive, written below ``folder``, at most ``most`` bytes of them."""
    for member in tqdm(archive, desc=f"unpacking {file.name}", unit="file", leave=False):
        place = PurePosixPath(member.name)
        if place.is_absolute() or ".." in place.parts or not (member.isreg() or member.isdir()):
            raise StudyError(
                f"{file}: {member.name!r} is a link, a device or leads out of the folder: not unpacked"
            )
        most -= member.size
        if most < 0:
            raise StudyError(
                f"{file} would unpack to more than {MOST} times its size: not unpacked"
            )
        target = folder / place
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.extractfile(member) as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core download", description="Fetch a dataset's official files."
    )
    parser.add_argument("dataset", help=", ".join([*REMOTE, *BY_HAND]))
    parser.add_argument(
        "--data-root", help="where to put them (default: MDR_DATA_ROOT, else data/ in the study)"
    )
    given = parser.parse_args(argv)
    try:
        print(f"{given.dataset} is at {dataset(given.dataset, given.data_root)}")
    except StudyError as problem:
        print(problem, file=sys.stderr)
        return 2
    except OSError as problem:
        print(
            f"the data root cannot be written ({problem}): give another folder as --data-root",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
