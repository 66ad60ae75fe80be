"""Which image belongs to which class, in the official layouts, read from a folder or straight from a zip file."""

import io
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from mdr_core.errors import StudyError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
)  # what a zip raises


MOST = 2**28  # bytes that a file inside a zip file may unpack to


class Listing(NamedTuple):
    """Which image is of which class.

    Attributes:
        files: N. labels: (N,) int64, 0 ... C - 1. class_names: C.
        family_names: C, or None where the layout has none.
        parts: (N,) "train", "test" or "gallery" where the official list says; None where the classes are halved.
    """

    files: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    family_names: tuple[str, ...] | None
    parts: np.ndarray | None = None


class Source:
    """Files of a folder or of a zip file; nothing is extracted to disk.

    Attributes:
        upright: its images are turned as their EXIF says. Somebody's own are; the official datasets' protocol does not.
    """

    def __init__(self, path: Path, upright: bool = False):
        self.path, self.upright = path, upright
        self.zip = None
        if path.is_dir():
            self.names = sorted(
                str(p.relative_to(path).as_posix()) for p in path.rglob("*") if p.is_file()
            )
        else:
            try:
                self.zip = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as problem:
                raise StudyError(
                    f"{path} is neither a folder nor a zip file that can be read: {problem}"
                ) from None
            self.names = sorted(n for n in self.zip.namelist() if not n.endswith("/"))
        self.known, self.lock = set(self.names), threading.Lock()

    def read(self, name: str) -> bytes:
        if name not in self.known:
            raise StudyError(f"{self.path} lacks {name}")
        try:
            if self.zip is None:
                return (self.path / name).read_bytes()
            if self.zip.getinfo(name).file_size > MOST:
                raise StudyError(
                    f"{self.path}: {name} would unpack to more than {MOST >> 20} MiB, which no file of a dataset does"
                )
            with self.lock:
                return self.zip.read(name)
        except DAMAGED as problem:
            raise StudyError(
                f"{self.path}: {name} cannot be read ({problem}): fetch it anew"
            ) from None

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.read(name))

    def stamp(self, name: str) -> tuple[int, int]:
        """Size, and checksum (zip) or time of change (folder): what tells a changed file."""
        if name not in self.known:
            raise StudyError(f"{self.path} lacks {name}")
        if self.zip is None:
            stat = (self.path / name).stat()
            return stat.st_size, stat.st_mtime_ns
        info = self.zip.getinfo(name)
        return info.file_size, info.CRC

    def ending(self, name: str) -> str:
        """The one file whose path ends in ``name``."""
        for n in self.names:
            if n == name or n.endswith("/" + name):
                return n
        raise StudyError(f"{self.path} lacks {name}: is this the dataset's official layout?")


def open_source(path: Path, upright: bool = False) -> Source:
    if not path.exists():
        raise StudyError(f"there is no folder or zip file {path}")
    return Source(path, upright)


def table(source: Source, name: str) -> tuple[str, dict[int, str]]:
    """Lines "number value" of a text file: its folder inside the source, and number -> value."""
    file, rows = source.ending(name), {}
    for number, line in enumerate(
        source.read(file).decode("utf-8", "replace").splitlines(), start=1
    ):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or not parts[0].isdigit():
            raise StudyError(
                f"{source.path}: {file}, line {number}: expected a number and a value, found {line[:60]!r}"
            )
        if int(parts[0]) in rows:
            raise StudyError(
                f"{source.path}: {file}, line {number}: number {parts[0]} stands there twice"
            )
        rows[int(parts[0])] = parts[1].strip()
    return file.removesuffix(name), rows


def cub(source: Source) -> Listing:
    """CUB-200-2011: images.txt, image_class_labels.txt, classes.txt and images/. A bird's family is its last word."""
    folder, paths = table(source, "images.txt")
    _, of_image = table(source, "image_class_labels.txt")
    _, classes = table(source, "classes.txt")
    order = sorted(classes)
    place = {str(c): i for i, c in enumerate(order)}
    for image in paths:
        if of_image.get(image) not in place:
            raise StudyError(
                f"{source.path}: image {image} of images.txt has no class in image_class_labels.txt"
            )
    files = [f"{folder}images/{paths[i]}" for i in sorted(paths)]
    labels = np.array([place[of_image[i]] for i in sorted(paths)], dtype=np.int64)
    names = tuple(classes[c].split(".", 1)[-1].replace("_", " ") for c in order)
    return Listing(files, labels, names, tuple(name.split()[-1] for name in names))


def cub50(source: Source) -> Listing:
    """CUB-200-2011's first 50 classes, of whatever part of it the source holds."""
    files, labels, names, families, parts = cub(source)
    files = [file for file, label in zip(files, labels, strict=True) if label < 50]
    return Listing(files, labels[labels < 50], names[:50], families[:50], parts)


def matlab(source: Source, name: str) -> dict:
    from scipy.io import loadmat  # here: its import takes a sixth of a second, which few need

    file = source.ending(name)
    try:
        return loadmat(
            source.open(file), squeeze_me=True
        )  # reads arrays; nothing in the file is executed
    except Exception as problem:
        raise StudyError(
            f"{source.path}: {file} is not a MATLAB file that can be read: {problem}"
        ) from None


def cars_names(source: Source, meta: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names, and their families: the make, a name's first word."""
    names = tuple(
        str(n).strip() for n in np.atleast_1d(matlab(source, meta).get("class_names", ()))
    )
    if not names or not all(names):
        raise StudyError(
            f"{source.path}: {source.ending(meta)} has no class_names, or an empty one"
        )
    return names, tuple(n.split()[0] for n in names)


def cars_annotated(
    source: Source, annotations: str, folder: str, classes: int
) -> tuple[list[str], list[int]]:
    """Files, and the label of each, 0 ... classes - 1 (the official file counts from 1)."""
    rows = np.atleast_1d(matlab(source, annotations).get("annotations", ()))
    fields = set(rows.dtype.names or ())
    if "class" not in fields or not fields & {"fname", "relative_im_path"}:
        raise StudyError(
            f"{source.path}: {source.ending(annotations)} has no annotations with class and fname or "
            "relative_im_path (the test half's official file without labels will not do)"
        )
    for number, row in enumerate(rows, start=1):
        if not (np.isscalar(row["class"]) and 1 <= row["class"] <= classes):
            raise StudyError(
                f"{source.path}: {source.ending(annotations)}, annotation {number}: class {row['class']} is "
                f"not one of 1 to {classes}"
            )
    base = (
        source.ending(annotations).removesuffix(f"devkit/{annotations}").removesuffix(annotations)
    )
    name = "fname" if "fname" in rows.dtype.names else "relative_im_path"
    prefix = f"{base}{folder}/" if name == "fname" else base
    return [f"{prefix}{row[name]}" for row in rows], [int(row["class"]) - 1 for row in rows]


def cars_train(source: Source) -> Listing:
    """The training half of Stanford Cars: cars_train/ and devkit/cars_train_annos.mat."""
    names, families = cars_names(source, "cars_meta.mat")
    files, labels = cars_annotated(source, "cars_train_annos.mat", "cars_train", len(names))
    return Listing(files, np.array(labels, dtype=np.int64), names, families)


def cars(source: Source) -> Listing:
    """All of Stanford Cars: car_ims/ with cars_annos.mat, or cars_train/ and cars_test/ with the devkit."""
    if any(n.endswith("cars_annos.mat") for n in source.names):
        names, families = cars_names(source, "cars_annos.mat")
        files, labels = cars_annotated(source, "cars_annos.mat", "car_ims", len(names))
        return Listing(files, np.array(labels, dtype=np.int64), names, families)
    files, labels, names, families, _ = cars_train(source)
    more, more_labels = cars_annotated(
        source, "cars_test_annos_withlabels.mat", "cars_test", len(names)
    )
    return Listing(
        files + more,
        np.concatenate([labels, np.array(more_labels, dtype=np.int64)]),
        names,
        families,
    )


def rows(source: Source, name: str, columns: int) -> tuple[str, list[list[str]]]:
    """A text file's lines of so many words, below its head: its folder inside the source, and the rows.

    Heads are a line with the number of rows, or one with the columns' names, or both.
    """
    file = source.ending(name)
    lines = [
        line.split()
        for line in source.read(file).decode("utf-8", "replace").splitlines()
        if line.strip()
    ]
    head = 1 + (len(lines[0]) == 1) if lines else 0
    for number, parts in enumerate(lines[head:], start=head + 1):
        if len(parts) != columns:
            raise StudyError(
                f"{source.path}: {file}, line {number}: expected {columns} words, found {len(parts)}"
            )
    return file.removesuffix(name), lines[head:]


def products(source: Source) -> Listing:
    """Stanford Online Products: Ebay_train.txt and Ebay_test.txt (image_id class_id super_class_id path)."""
    files, labels, parts, names, families = [], [], [], {}, {}
    for part, name in (("train", "Ebay_train.txt"), ("test", "Ebay_test.txt")):
        folder, listed = rows(source, name, 4)
        for _, product, _, path in listed:
            number = names.setdefault(product, len(names))
            families[number] = path.split("/")[0].removesuffix("_final")
            files.append(folder + path)
            labels.append(number)
            parts.append(part)
    titles = tuple(f"{families[i]} {product}" for product, i in names.items())
    return Listing(
        files,
        np.array(labels, dtype=np.int64),
        titles,
        tuple(families[i] for i in range(len(names))),
        np.array(parts),
    )


def clothes(source: Source) -> Listing:
    """In-Shop Clothes: list_eval_partition.txt (image item status), status train, query or gallery."""
    _, listed = rows(source, "list_eval_partition.txt", 3)
    if not listed:
        raise StudyError(f"{source.path}: list_eval_partition.txt is empty")
    base = source.ending(listed[0][0]).removesuffix(listed[0][0])
    official = {"train": "train", "query": "test", "gallery": "gallery"}
    files, labels, parts, names, families = [], [], [], {}, {}
    for path, item, status in sorted(
        listed, key=lambda row: row[2] != "train"
    ):  # the training items first
        if status not in official:
            raise StudyError(
                f"{source.path}: list_eval_partition.txt: status {status!r} of {path} is not train, query or gallery"
            )
        number = names.setdefault(item, len(names))
        families[number] = "/".join(path.split("/")[1:3])
        files.append(base + path)
        labels.append(number)
        parts.append(official[status])
    return Listing(
        files,
        np.array(labels, dtype=np.int64),
        tuple(names),
        tuple(families[i] for i in range(len(names))),
        np.array(parts),
    )


def folder(source: Source) -> Listing:
    """A folder of class folders: an image's class is the name of the folder that it lies in, the classes in sorted order.

    Hidden files and the ``__MACOSX`` folder of archives made on a Mac are passed over; there are no families.
    """
    hidden = (".", "__MACOSX")
    files = [
        n
        for n in source.names
        if n.lower().endswith(IMAGES)
        and "/" in n
        and not any(part.startswith(hidden) for part in n.split("/"))
    ]
    if not files:
        raise StudyError(
            f"{source.path} has no images in class folders: expected <class>/<image>.jpg or .png"
        )
    parents = [PurePosixPath(f).parent.name for f in files]
    names = tuple(sorted(set(parents)))
    place = {n: i for i, n in enumerate(names)}
    return Listing(files, np.array([place[p] for p in parents], dtype=np.int64), names, None)
