"""List which image is of which class, in a folder or in a zip file.

A reader takes a :class:`Source` and returns a :class:`Listing`. There is one for each official
layout, and :func:`class_folders` for a user's own images.
"""

import io
import itertools
import os
import re
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from mdr_core.data.source import Source

# Formats of Pillow that are no photographs, or that need another program.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
SPLITS = re.compile(r"train(ing|val)?|val(id|idation)?|dev|eval(uation)?|test(ing)?", re.IGNORECASE)


class Listing(NamedTuple):
    """The images of a dataset: N files, of C classes.

    Without official splits the first half of the classes trains, the second half tests.
    """

    files: list[str]
    labels: np.ndarray  # (N,) int64, 0 ... C - 1
    class_names: tuple[str, ...]
    families: tuple[str, ...] = ()  # C names of coarser groups; none where the layout has none
    splits: np.ndarray | None = None  # (N,) "train", "test" or "gallery", by the official list
    taken: str = ""  # a line for a user's own images: what is a class, and what was left out


def table(source: Source, name: str, columns: int, header: int = 0) -> list[tuple[str, list[str]]]:
    """Return the rows of a text file below its header lines: each one's place and its words.

    The last word takes the rest of its line. ``header``: so many lines at most; a line with a path
    in it is none.
    """
    file = source.ending(name)
    lines = source.read(file).decode("utf-8-sig", "replace").splitlines()
    header = next((i for i, line in enumerate(lines[:header]) if "/" in line), header)
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


def first_50(whole: Listing) -> Listing:
    """Return the images of the first 50 classes, of those that there are."""
    first = whole.labels < 50
    files = list(itertools.compress(whole.files, first))
    return Listing(files, whole.labels[first], whole.class_names[:50], whole.families[:50])


def cub50(source: Source) -> Listing:
    """List the first 50 classes of CUB-200-2011."""
    return first_50(cub(source))


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

    Where both are listed, those count whose images are there. A car's family is its make, the
    name's first word.
    """
    meta, halves = "cars_annos.mat", {"cars_annos.mat": "car_ims"}
    paths = " ".join(f"/{file}" for file in source.files)
    devkit = "/cars_meta.mat" in paths and "/car_ims/" not in paths
    if devkit or f"/{meta}" not in paths:
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


def cars50(source: Source) -> Listing:
    """List the first 50 classes of Stanford Cars."""
    return first_50(cars(source))


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


def class_folders(source: Source, class_level: int = 0) -> Listing:
    """List a folder of class folders, whose images all lie equally deep.

    Folders that hold all images are skipped. Then a class is the whole path of an image's folder;
    first folders that are all named like train, validation and test are left out of it.

    Args:
        class_level: the class is only so many folders of that path, with all below them.

    Raises:
        StudyError: no images in class folders, or images at different depths.
    """
    kinds = Image.registered_extensions().items()
    endings = {e for e, kind in kinds if kind in Image.OPEN and kind not in NOT_IMAGES}
    files = [file for file in source.files if PurePosixPath(file).suffix.lower() in endings]
    folders = [PurePosixPath(file).parent.parts for file in files]
    top = os.path.commonprefix(folders) if files else ()
    folders = [folder[len(top) :] for folder in folders]
    merged = all(len(folder) > 1 and SPLITS.fullmatch(folder[0]) for folder in folders)
    parts = sorted({folder[0] for folder in folders}) if merged else []
    folders = [folder[merged:] for folder in folders]
    example = {len(folder): file for folder, file in zip(folders, files, strict=True)}
    least, most = min(example, default=0), max(example, default=0)
    if not most:
        raise source.error(
            "no images in two or more class folders: expected <class>/<image>.jpg or .png"
        )
    if least < class_level:
        raise source.error(
            f"{example[least]} lies in fewer folders than class_level={class_level} asks for: move "
            "or remove it, or give a smaller class_level"
        )
    if least < most and not class_level:
        raise source.error(
            f"images lie at different depths, {example[least]} and {example[most]}: move or remove "
            "those that belong to no class, or name the level of the classes, as in "
            "folder:PATH,class_level=1"
        )
    depth = class_level or most
    classes = ["/".join(folder[:depth]) for folder in folders]
    names, labels = np.unique(classes, return_inverse=True)
    kind = "folder" if depth == 1 else f"path of {depth} folders"
    kind += f" below {'/'.join(top)}/" if top else ""
    kind += f" ({' and '.join(parts)} merged)" if parts else ""
    shown = ", ".join(names if len(names) < 5 else [*names[:3], f"... {names[-1]}"])
    taken = f"{source.path}: {len(files)} images, each {kind} is a class: {len(names)} ({shown})"
    if left := sorted(source.files.keys() - set(files)):
        others = sorted({PurePosixPath(file).suffix.lower() or "no ending" for file in left})
        taken += f"; not read: {len(left)} files ({', '.join(others)}), as {left[0]}"
    return Listing(files, labels, tuple(names.tolist()), taken=taken)
