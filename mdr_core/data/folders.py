"""Folders of images: a zip file is unpacked once into the cache, and is a folder from then on."""

import os
import re
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.files import cache_root, locked

MOST_TIMES = 20  # its own size that a zip file may unpack to; photographs hardly shrink
MOST_BYTES = 2**28  # of a file inside
HIDDEN = re.compile(r"\.|__MACOSX$|lost\+found$")


def unpacked(path: Path) -> Path:
    """Return a folder as it is, a zip file unpacked into the cache: whole or not at all.

    A changed zip file is unpacked anew. One that is damaged or not safe is a StudyError.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise StudyError(f"there is no folder or zip file {path}")
    about = path.stat()
    stamp = sha256([os.fsencode(path.resolve()).hex(), about.st_size, about.st_mtime_ns])[:16]
    folder = cache_root() / "unpacked" / f"{path.stem}-{stamp}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # of several processes, one unpacks
            if not folder.exists():
                unpack(path, folder)
    except (StudyError, MemoryError):
        raise
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        advice = "fetch or pack it anew, names in UTF-8, or set MDR_CACHE to a folder with room"
        raise StudyError(f"{path} cannot be unpacked ({problem}): {advice}") from None
    return folder


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip file whose members lie inside it, each once, none too large."""
    seen, left = set(), MOST_TIMES * path.stat().st_size
    with zipfile.ZipFile(path, metadata_encoding="utf-8") as archive:
        for entry in archive.infolist():
            entry.filename = entry.filename.replace("\\", "/")  # old Windows programs
            place = PurePosixPath(entry.filename)
            left -= entry.file_size
            outside = place.is_absolute() or ".." in place.parts
            if outside or place in seen or stat.S_ISLNK(entry.external_attr >> 16):
                why = f"{place} leads out of it, is a link or stands twice in it"
                raise StudyError(f"{path} is not unpacked: {why}: pack it anew")
            if entry.file_size > MOST_BYTES or left < 0:
                why = f"{place} is over {MOST_BYTES >> 20} MiB, or all {MOST_TIMES} times as large"
                raise StudyError(f"{path} is not unpacked: {why}: unpack it by hand")
            seen.add(place)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial") as partial:
            archive.extractall(f"{partial}/all", archive.infolist())
            os.replace(f"{partial}/all", folder)


def files_of(folder: Path) -> list[str]:
    """Return the paths of all files inside a folder, sorted, without hidden ones.

    Links are followed. A folder that cannot be read or is linked to twice is a StudyError, and so
    is a name that is not UTF-8.
    """

    def refuse(problem: OSError) -> None:
        raise StudyError(
            f"{problem.filename} cannot be read ({problem.strerror}): allow or remove it"
        )

    found, seen = [], set()
    for top, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(top)) in seen:
            raise StudyError(f"{top} is linked to twice, or holds itself: remove the link")
        seen.add(real)
        inner[:] = [name for name in inner if not HIDDEN.match(name)]
        inside = Path(top).relative_to(folder)
        found += [(inside / name).as_posix() for name in names if not HIDDEN.match(name)]
    for name in (str(folder), *found):
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise StudyError(f"the name {name!a} is not UTF-8: rename it")
    return sorted(found)
