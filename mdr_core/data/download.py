"""Fetch a dataset's official files: ``python -m mdr_core download cub200``."""

import argparse
import os
import shutil
import socket
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import download_url

from mdr_core.data.catalog import KNOWN
from mdr_core.errors import StudyError, unknown
from mdr_core.files import data_roots, locked

REMOTE = {  # archives and their md5
    "cub200": (
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
    ),
    "sop": (
        "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        "7f73d41a2f44250d4779881525aea32e",
    ),
}


def dataset(name: str) -> Path:
    """Return a dataset's folder under the data root; fetch and unpack it unless it is there.

    Raises:
        StudyError: an unknown name, no server that gives it out, or another content than the
            official one. Nothing is left of it then.
    """
    if name not in KNOWN:
        raise unknown("dataset to download", name, REMOTE)
    root, elsewhere = data_roots()[-1], f"it is {KNOWN[name].origin}: put it into"
    folder = root / name
    if name not in REMOTE:
        raise StudyError(f"{name} cannot be downloaded: {elsewhere} {folder}")
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder), tempfile.TemporaryDirectory(dir=root, prefix=".download") as partial:
        if folder.is_dir() and any(folder.iterdir()):  # of two processes, one fetches
            return folder
        url, md5 = REMOTE[name]
        try:
            download_url(url, partial, md5=md5)
            archive, new = Path(partial) / Path(url).name, Path(partial) / name
            shutil.unpack_archive(archive, new, filter=None if archive.suffix == ".zip" else "data")
            os.replace(new, folder)
        except (OSError, RuntimeError, ValueError, HTTPException, tarfile.TarError) as problem:
            raise StudyError(
                f"{url} could not be fetched ({problem}): try again, or, if no server has it any "
                f"more, {elsewhere} {folder}"
            ) from None
    return folder


def main(argv: list[str] | None = None) -> int:
    """Run the command ``download``."""
    parser = argparse.ArgumentParser(prog="python -m mdr_core download", description=__doc__)
    parser.add_argument("dataset", help=", ".join(REMOTE))
    socket.setdefaulttimeout(60)  # seconds without a byte before a server is given up
    name = parser.parse_args(argv).dataset
    print(f"{name} is at {dataset(name)}")
    return 0
