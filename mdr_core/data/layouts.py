"""List which image is of which class, in a folder or in a zip file that is not unpacked.

A reader takes a :class:`Source` and returns a :class:`Listing`. There is one for each official
layout, and :func:`class_folders` for a user's own images.
"""

import io
import itertools
import re
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from mdr_core.errors import StudyError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
MOST = 2**28  # bytes that a file inside a zip file may unpack to
DAMAGED = zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError


class Listing(NamedTuple):
    """The images of a dataset: N files, of C classes.

    Attributes:
        labels: (N,) int64, 0 ... C - 1.
        families: C names of coarser groups of the classes; none where the layout has none.
        splits: (N,) "train", "test" or "gallery" where the official list says. Else the first half
            of the classes trains, the second half tests.
    """

    files: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    families: tuple[str, ...] = ()
    splits: np.ndarray | None = None


class Source:
    """Files of a folder or of a zip file, by their paths inside it.

    Attributes:
        upright: apply EXIF rotation to its images. The official datasets' protocol does not.
        files: path -> size, and checksum (zip) or time of change (folder).
    """

    def __init__(self, path: Path, upright: bool = False):
        self.path, self.upright, self.lock = path, upright, threading.Lock()
        self.archive: zipfile.ZipFile | None = None
        if not path.exists():
            raise StudyError(f"there is no folder or zip file {path}")
        if path.is_dir():
            stats = {
                p.relative_to(path).as_posix(): p.stat() for p in path.rglob("*") if p.is_file()
            }
            found = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
        else:
            try:
                self.archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as problem:
                raise StudyError(
                    f"{path} is neither a folder nor a zip file that can be read: {problem}"
                ) from None
            entries = self.archive.infolist()
            found = {e.filename: (e.file_size, e.CRC) for e in entries if not e.is_dir()}
        self.files = dict(sorted(found.items()))

    def error(self, problem: str) -> StudyError:
        """Return the error that says what is wrong with a file of this source."""
        return StudyError(f"{self.path}: {problem}")

    def stamp(self, name: str) -> tuple[int, int]:
        """Return what tells a changed file: see ``files``."""
        if name not in self.files:
            raise StudyError(f"{self.path} lacks {name}")
        return self.files[name]

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        size, _ = self.stamp(name)
        try:
            if self.archive is None:
                return (self.path / name).read_bytes()
            if size > MOST:
                most = f"{MOST >> 20} MiB, which no file of a dataset does"
                raise self.error(f"{name} would unpack to more than {most}")
            with self.lock:
                return self.archive.read(name)
        except DAMAGED as problem:
            raise self.error(f"{name} cannot be read ({problem}): fetch it anew") from None

    def ending(self, name: str) -> str:
        """Return the one path that ends in ``name``."""
        for file in self.files:
            if f"/{file}".endswith(f"/{name}"):
                return file
        raise StudyError(f"{self.path} lacks {name}: is this the dataset's official layout?")

    def folder_of(self, name: str) -> str:
        """Return what comes before ``name`` in the one path that ends in it."""
        return self.ending(name).removesuffix(name)


def table(source: Source, name: str, columns: int, header: int = 0) -> list[tuple[str, list[str]]]:
    """Return the rows of a text file below its header lines: where each stands, and its words.

    The last word takes the rest of its line.
    """
    file = source.ending(name)
    lines = source.read(file).decode("utf-8", "replace").splitlines()
    rows = [
        (f"{file}, line {number}", line.strip().split(maxsplit=columns - 1))
        for number, line in enumerate(lines[header:], start=header + 1)
        if line.strip()
    ]
    if not rows:
        raise source.error(f"{file} is empty")
    for place, row in rows:
        if len(row) != columns:
            found = " ".join(row)[:60]
            raise source.error(f"{place}: expected {columns} words, found {found!r}")
    return rows


def numbered(source: Source, name: str) -> dict[int, str]:
    """Return number -> value of a text file's lines "number value", in the numbers' order."""
    values: dict[int, str] = {}
    for place, (number, value) in table(source, name, columns=2):
        if not number.isdecimal():
            raise source.error(f"{place}: {number[:60]!r} is not a number")
        if int(number) in values:
            raise source.error(f"{place}: number {number} stands there twice")
        values[int(number)] = value
    return dict(sorted(values.items()))


def cub(source: Source) -> Listing:
    """List CUB-200-2011: images.txt, image_class_labels.txt, classes.txt and images/.

    A bird's family is its last word.
    """
    folder, images = source.folder_of("images.txt"), numbered(source, "images.txt")
    class_of, classes = (
        numbered(source, name) for name in ("image_class_labels.txt", "classes.txt")
    )
    place = {str(number): label for label, number in enumerate(classes)}
    for image in images:
        if class_of.get(image) not in place:
            raise source.error(
                f"image {image} of images.txt has no class in image_class_labels.txt"
            )
    labels = np.array([place[class_of[image]] for image in images])
    names = tuple(name.split(".", 1)[-1].replace("_", " ") for name in classes.values())
    files = [f"{folder}images/{path}" for path in images.values()]
    return Listing(files, labels, names, tuple(name.rpartition(" ")[2] for name in names))


def cub50(source: Source) -> Listing:
    """List CUB-200-2011's first 50 classes, of those that the source holds."""
    files, labels, names, families, _ = cub(source)
    first = labels < 50
    return Listing(list(itertools.compress(files, first)), labels[first], names[:50], families[:50])


def matlab(source: Source, name: str, variable: str) -> np.ndarray:
    """Return an array of a MATLAB file, empty if there is none. Nothing in the file is executed."""
    from scipy.io import loadmat  # here: its import takes a sixth of a second, which few need

    file = source.ending(name)
    try:
        return np.atleast_1d(
            loadmat(io.BytesIO(source.read(file)), squeeze_me=True).get(variable, ())
        )
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        raise source.error(f"{file} is not a MATLAB file that can be read: {problem}") from None


def cars(source: Source) -> Listing:
    """List Stanford Cars: car_ims/, or cars_train/ and cars_test/ with the devkit.

    A car's family is its make, the name's first word.
    """
    meta, halves = "cars_annos.mat", {"cars_annos.mat": "car_ims"}
    if not any(file.endswith(meta) for file in source.files):
        meta, halves = "cars_meta.mat", {"cars_train_annos.mat": "cars_train"}
        halves["cars_test_annos_withlabels.mat"] = "cars_test"
    names = tuple(str(name).strip() for name in matlab(source, meta, "class_names"))
    if not names or not all(names):
        raise source.error(f"{source.ending(meta)} has no class_names, or an empty one")
    files, numbers, valid = [], [], set(range(1, len(names) + 1))
    for annotations, folder in halves.items():
        rows = matlab(source, annotations, "annotations")
        fields, file = rows.dtype.names or (), source.ending(annotations)
        path = "fname" if "fname" in fields else "relative_im_path"
        if "class" not in fields or path not in fields:
            raise source.error(
                f"{file} has no annotations with class and fname or relative_im_path "
                "(the test half's official file without labels will not do)"
            )
        base = source.folder_of(annotations).removesuffix("devkit/")
        base += f"{folder}/" if path == "fname" else ""
        for line, row in enumerate(rows, start=1):
            number = row["class"]
            if not np.isscalar(number) or number not in valid:
                raise source.error(
                    f"{file}, annotation {line}: class {number} is not one of 1 to {len(names)}"
                )
            files.append(f"{base}{row[path]}")
            numbers.append(number)
    labels = np.array(numbers, dtype=np.int64) - 1
    return Listing(files, labels, names, tuple(name.split()[0] for name in names))


def in_official_splits(rows: list[tuple[str, str, str, str]]) -> Listing:
    """List rows of file, class, family and split; the classes are numbered as they come."""
    files, classes, families, splits = zip(*rows, strict=True)
    family = dict(zip(classes, families, strict=True))
    label = {name: number for number, name in enumerate(family)}
    labels = np.array([label[name] for name in classes])
    return Listing(list(files), labels, tuple(family), tuple(family.values()), np.array(splits))


def products(source: Source) -> Listing:
    """List Stanford Online Products: Ebay_train.txt and Ebay_test.txt.

    Their columns are image_id, class_id, super_class_id and path.
    """
    rows = []
    for split in ("train", "test"):
        folder = source.folder_of(f"Ebay_{split}.txt")
        for _, (_, product, _, path) in table(source, f"Ebay_{split}.txt", columns=4, header=1):
            family = path.split("/")[0].removesuffix("_final")
            rows.append((folder + path, f"{family} {product}", family, split))
    return in_official_splits(rows)


def clothes(source: Source) -> Listing:
    """List In-Shop Clothes: list_eval_partition.txt (image, item, train or query or gallery)."""
    official = {"train": "train", "query": "test", "gallery": "gallery"}
    listed = table(source, "list_eval_partition.txt", columns=3, header=2)
    listed.sort(key=lambda row: row[1][2] != "train")  # the training items come first
    base = source.folder_of(listed[0][1][0])
    rows = []
    for place, (path, item, status) in listed:
        if status not in official:
            raise source.error(
                f"{place}: status {status!r} of {path} is not train, query or gallery"
            )
        rows.append((base + path, item, "/".join(path.split("/")[1:3]), official[status]))
    return in_official_splits(rows)


def class_folders(source: Source) -> Listing:
    """List a folder of class folders: an image's class is the name of the folder that it lies in.

    Hidden files and the ``__MACOSX`` folder of archives made on a Mac are passed over.
    """
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    files = [
        file
        for file in source.files
        if file.lower().endswith(IMAGES) and "/" in file and not hidden.search(file)
    ]
    if not files:
        raise StudyError(
            f"{source.path} has no images in class folders: expected <class>/<image>.jpg or .png"
        )
    classes = [PurePosixPath(file).parent.name for file in files]
    names, labels = np.unique(classes, return_inverse=True)
    return Listing(files, labels, tuple(names.tolist()))
