"""Fetch a dataset's official files: ``python -m mdr_core download cub200``."""

import argparse
import os
import tempfile

from torchvision.datasets.utils import download_and_extract_archive

from mdr_core.data.catalog import KNOWN, REMOTE
from mdr_core.errors import StudyError
from mdr_core.files import data_roots


def main(argv: list[str] | None = None) -> int:
    """Fetch and unpack a dataset into the data root: whole or not at all."""
    parser = argparse.ArgumentParser("python -m mdr_core download", description=__doc__)
    parser.add_argument("dataset", choices=KNOWN)
    name = parser.parse_args(argv).dataset
    folder = data_roots()[-1] / name
    try:
        if not folder.exists():
            url, md5 = REMOTE[name]
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download") as partial:
                download_and_extract_archive(url, partial, f"{partial}/{name}", md5=md5)
                os.replace(f"{partial}/{name}", folder)
    except Exception as problem:  # noqa: BLE001 - a server and an archive raise anything
        why = f"{name} cannot be downloaded ({problem!r}); it is {KNOWN[name].origin}"
        raise StudyError(f"{why}: put it into {folder}") from None
    print(f"{name} is at {folder}")
    return 0
