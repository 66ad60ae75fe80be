"""Read the files of a folder, or of a zip file that is not unpacked."""

import lzma
import os
import posixpath
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mdr_core.errors import StudyError

MOST = 2**28  # bytes that a file inside a zip file may unpack to
BAD_ZIP = zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError
DAMAGED = *BAD_ZIP, OSError, RuntimeError, NotImplementedError, ValueError
PASSED_OVER = re.compile(r"(^|/)(\.|__MACOSX|lost\+found(/|$))")


class Source:
    """Files of a folder or of a zip file, by their paths inside it.

    Links are followed. Hidden files, and the ``__MACOSX`` folder of archives made on a Mac, are
    passed over.

    Attributes:
        upright: apply EXIF rotation to its images. The official datasets' protocol does not.
        files: path -> size, and checksum (zip) or times of change and inode (folder).

    Raises:
        StudyError: not a folder or zip file; a folder that cannot be read; a link to nothing or
            into a loop. A name that is not UTF-8, or that a zip file has twice.
    """

    def __init__(self, path: Path, upright: bool = False):
        self.path, self.upright, self.lock = path, upright, threading.Lock()
        self.archive: zipfile.ZipFile | None = None
        found: dict[str, tuple[int, ...]]
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise StudyError(f"the path {str(path)!a} is not UTF-8: rename it") from None
        if os.path.isdir(path):
            found = dict(in_folder(path))
        elif os.path.exists(path):
            self.archive, self.members = in_zip(path)
            found = {name: (entry.file_size, entry.CRC) for name, entry in self.members.items()}
        else:
            raise StudyError(f"there is no folder or zip file {path}")
        self.files = dict(sorted(found.items()))

    def error(self, problem: str) -> StudyError:
        """Return the error that says what is wrong with a file of this source."""
        return StudyError(f"{self.path}: {problem}")

    def stamp(self, name: str) -> tuple[int, ...]:
        """Return what tells a changed file: see ``files``."""
        if name not in self.files:
            raise StudyError(f"{self.path} lacks {name}")
        return self.files[name]

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        size = self.stamp(name)[0]
        try:
            if self.archive is None:
                with open(os.path.join(os.fsencode(self.path), name.encode()), "rb") as file:
                    return file.read()
            if size > MOST:
                limit = f"{MOST >> 20} MiB, which no file of a dataset does"
                raise self.error(f"{name} would unpack to more than {limit}")
            with self.lock:
                return self.archive.read(self.members[name])
        except DAMAGED as problem:
            advice = "allow reading it, or remove it" if self.archive is None else "fetch it anew"
            raise self.error(f"{name} cannot be read ({problem}): {advice}") from None

    def ending(self, name: str) -> str:
        """Return the one path that ends in ``name``."""
        for file in self.files:
            if f"/{file}".endswith(f"/{name}"):
                return file
        raise StudyError(f"{self.path} lacks {name}: is this the dataset's official layout?")

    def folder_of(self, name: str) -> str:
        """Return what comes before ``name`` in the one path that ends in it."""
        return self.ending(name).removesuffix(name)


def in_folder(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield a folder's files, and size, times of change and inode of each.

    Names are bytes until here. They are read as UTF-8 under every locale.
    """
    to_do: list[tuple[str, tuple]] = [("", ())]
    while to_do:
        inside, above = to_do.pop()
        folder = os.path.join(os.fsencode(path), inside.encode())
        try:
            about = os.stat(folder)
            entries = [*os.scandir(folder)]
        except OSError as problem:
            why = f"folder {inside or '.'} cannot be read ({problem.strerror})"
            raise StudyError(f"{path}: {why}: allow reading it, or remove it") from None
        here = (about.st_dev, about.st_ino)
        if here in above:
            raise StudyError(f"{path}: {inside} links to a folder that holds it: remove the link")
        for entry in entries:
            try:
                name = inside + entry.name.decode()
            except UnicodeDecodeError:
                why = f"the name {inside}{entry.name!r} is not UTF-8: rename it"
                raise StudyError(f"{path}: {why}") from None
            if PASSED_OVER.search(name):
                continue
            try:
                about = entry.stat()
            except OSError as problem:
                why = f"{name} leads to nothing that can be read ({problem.strerror})"
                raise StudyError(f"{path}: {why}: restore what it links to, or remove it") from None
            if stat.S_ISDIR(about.st_mode):
                to_do.append((f"{name}/", (*above, here)))
            elif stat.S_ISREG(about.st_mode):
                changed = about.st_mtime_ns, about.st_ctime_ns
                yield name, (about.st_size, *changed, about.st_ino)


def in_zip(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Return a zip file, and its files by their paths: ``/`` between folders, and no ``./``.

    Names without a declared encoding are UTF-8, or else cp437.
    """
    if not os.path.isfile(path):
        raise StudyError(f"{path} is neither a folder nor a zip file")
    try:
        try:
            archive = zipfile.ZipFile(path, metadata_encoding="utf-8")
        except UnicodeDecodeError:
            archive = zipfile.ZipFile(path)
    except DAMAGED as problem:
        raise StudyError(
            f"{path} is neither a folder nor a zip file that can be read: {problem}"
        ) from None
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        written = entry.filename.replace("\\", "/")
        name = posixpath.normpath(written).lstrip("/")
        if name.startswith("../"):
            raise StudyError(f"{path}: {name} leads out of the zip file: pack it anew")
        if written.endswith("/") or PASSED_OVER.search(name):
            continue
        if name in found:
            raise StudyError(f"{path}: {name} stands twice in the zip file: pack it anew")
        found[name] = entry
    return archive, found
