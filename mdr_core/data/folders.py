"""List the images of a user's folder or zip file, and their classes."""

import itertools
import os
import re
import tempfile
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

import pandas as pd

from mdr_core.errors import StudyError
from mdr_core.files import cache_root, locked, sha256

HIDDEN = re.compile(r"\.|__MACOSX$|lost\+found$")
IMAGE = re.compile(r"(?i)\.(jpe?g|jpe|jfif|png|webp|avif|gif|bmp|tiff?|jp2|ppm|pgm|tga)")
WORDS = r"train(ing)?|val(idation)?|dev|eval(uation)?|test(ing)?|hold_?out"
SPLIT = re.compile(rf"(?i)(.*[\W_])?({WORDS})([\W_\d].*)?")  # train, test_set, seg_train


def unpacked(path: Path) -> Path:
    """Return a folder as it is, a zip file unpacked into the cache, anew where it has changed."""
    if path.is_dir():
        return path
    try:
        about = path.stat()
        stamp = sha256([str(path), about.st_size, about.st_mtime_ns])[:16]
        folder = cache_root() / "unpacked" / f"{path.stem}-{stamp}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder), tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            if not folder.exists():  # of several processes, one unpacks
                with zipfile.ZipFile(path, metadata_encoding="utf-8") as archive:
                    archive.extractall(f"{partial}/all")  # which writes nothing outside
                os.replace(f"{partial}/all", folder)
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        advice = "pack it anew, names in UTF-8, or set MDR_CACHE to a folder with room"
        raise StudyError(f"{path} is no folder or good zip file ({problem}): {advice}") from None
    return folder


def files_of(folder: Path) -> list[Path]:
    """Return all files inside a folder, without hidden ones. Links are followed."""
    found = []
    try:
        for entry in sorted(folder.iterdir()):
            if HIDDEN.match(entry.name):
                continue
            if entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve()):
                raise StudyError(f"{entry} links to a folder that holds it: remove the link")
            found += files_of(entry) if entry.is_dir() else [entry]
    except (OSError, RuntimeError) as problem:  # the latter of a link to itself
        raise StudyError(f"{problem}: allow or remove it") from None
    return found


def class_folders(folder: Path, class_level: int = 0) -> tuple[pd.DataFrame, str]:
    """List a folder of class folders; return a line that says what is a class, too.

    Folders that hold all images are skipped, and first folders that are all splits are merged. A
    class is then the path of an image's folder, or the ``class_level`` first folders of it.
    """
    ending = {path.relative_to(folder).as_posix(): path.suffix for path in files_of(folder)}
    files = sorted(file for file in ending if IMAGE.fullmatch(ending[file]))
    left = [ending[file] or "no ending" for file in {*ending} - {*files}]
    parts = [PurePosixPath(unicodedata.normalize("NFC", file)).parent.parts for file in files]
    top, notes = os.path.commonprefix(parts), ""
    parts = [part[len(top) :] for part in parts]
    while parts and all(len(part) > 1 and SPLIT.fullmatch(part[0]) for part in parts):
        notes = notes or f"; merged: {', '.join(sorted({part[0] for part in parts}))}"
        parts = [part[1:] for part in parts]
    notes += f"; not read: {len(left)} files ({', '.join(sorted({*left}))})" if left else ""
    if why := doubt(dict(zip(files, parts, strict=True)), class_level):
        advice = "make it <class>/<image>.jpg, or say which folders are the classes, as in"
        raise StudyError(f"{folder}: {why}{notes}: {advice} folder:PATH,class_level=1")
    depth = class_level or len(parts[0])
    rows = pd.DataFrame({"file": files, "name": ["/".join(part[:depth]) for part in parts]})
    rows["number"], names = pd.factorize(rows.name, sort=True)
    count = f"{len(files)} images of {len(names)} classes ({names[0]} to {names[-1]})"
    return rows, f"{folder}: {count}{notes}"


def doubt(parts: dict[str, tuple[str, ...]], class_level: int) -> str:
    """Return why it is not clear what is a class. ``parts``: the folders of each file."""
    example = {len(part): file for file, part in parts.items()}
    least, most = min(example, default=0), max(example, default=0)
    if not most:
        return "no images in two or more class folders"
    if least < max(class_level, 1) or (least < most and not class_level):
        return f"{example[least]} and {example[most]} lie {least} and {most} folders deep"
    second = [part[1] for part in {part[:2] for part in parts.values()} if most > 1 > class_level]
    same = [one for one, other in itertools.pairwise(sorted(second)) if one == other]
    return f"two folders hold a folder {same[0]}" if same else ""
