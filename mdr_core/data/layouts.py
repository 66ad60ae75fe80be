"""List the images of a folder: a row each, whose columns are

* ``file``, its path inside the folder;
* ``name``, its class, and ``number``, by which classes are sorted;
* ``family``, a coarser group of classes, and ``split``, "train", "test" or "gallery", where the
  layout has them.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from mdr_core.data.folders import files_of
from mdr_core.errors import StudyError

# Formats of Pillow that are no photographs, or that need another program.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
SPLIT = "(train(ing|val)?|val(id|idation)?|dev|eval(uation)?|test(ing)?|hold_?out)"
PLAIN = re.compile(SPLIT, re.IGNORECASE)
DECORATED = re.compile(rf"(.*[\W_])?{SPLIT}([\W_\d].*)?", re.IGNORECASE)  # seg_train, test_set
LEVEL = "folder:PATH,class_level=1"
Parts = tuple[str, ...]  # the folders of a path


def place(folder: Path, name: str) -> Path:
    """Return the one file or folder of a name."""
    if found := sorted(folder.rglob(name), key=lambda path: (len(path.parts), path)):
        return found[0]
    raise StudyError(f"{folder} lacks {name}: is this the dataset's official layout?")


def inside(folder: Path, base: Path, path: str) -> str:
    """Return a listed path, which is one in ``base``, as one in the dataset's folder."""
    return (PurePosixPath(base.relative_to(folder)) / path).as_posix()


def table(file: Path, columns: int, header: int = 0) -> list[list[str]]:
    """Return the words of a text file's lines; the last word takes the rest of its line."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()[header:]
    rows = [line.strip().split(maxsplit=columns - 1) for line in lines]
    for number, row in enumerate(rows or [[]], start=header + 1):
        if len(row) != columns:
            raise StudyError(f"{file}, line {number}: expected {columns} words, found {len(row)}")
    return rows


def cub(folder: Path) -> pd.DataFrame:
    """List CUB-200-2011: images.txt, image_class_labels.txt, classes.txt and images/.

    A bird's family is its last word.
    """
    top = place(folder, "images.txt").parent
    listed = ("images.txt", "image_class_labels.txt", "classes.txt")
    images, class_of, classes = (dict(table(place(top, name), columns=2)) for name in listed)
    if images.keys() != class_of.keys() or not {*class_of.values()} <= classes.keys():
        raise StudyError(f"{top}: {', '.join(listed)} do not list the same images and classes")
    number = {name: i for i, name in enumerate(classes)}
    rows = [
        (inside(folder, top / "images", path), number[class_of[i]], classes[class_of[i]])
        for i, path in images.items()
    ]
    birds = pd.DataFrame(rows, columns=["file", "number", "name"])
    birds["name"] = birds.name.str.split(".", n=1).str[-1].str.replace("_", " ")
    return birds.assign(family=birds.name.str.split(" ").str[-1])


def cars(folder: Path) -> pd.DataFrame:
    """List Stanford Cars: car_ims/, or cars_train/ and cars_test/ with the devkit.

    Where both are listed, those count whose images are there. A car's family is its make, the
    name's first word. Nothing in the MATLAB files is executed.
    """
    from scipy.io import loadmat  # here: its import takes a sixth of a second, which few need

    meta, path, parts = "cars_annos.mat", "relative_im_path", {"cars_annos.mat": ""}
    if not any(folder.rglob("car_ims")):
        meta, path, parts = "cars_meta.mat", "fname", {"cars_train_annos.mat": "cars_train"}
        parts["cars_test_annos_withlabels.mat"] = "cars_test"
    rows, file = [], place(folder, meta)
    try:
        names = [str(name).strip() for name in loadmat(file, squeeze_me=True)["class_names"]]
        for annotations, part in parts.items():
            file = place(folder, annotations)
            base = place(folder, part) if part else file.parent
            for row in np.atleast_1d(loadmat(file, squeeze_me=True)["annotations"]):
                number = range(1, len(names) + 1).index(row["class"])
                image = inside(folder, base, str(row[path]))
                rows.append((image, number, names[number], names[number].split()[0]))
    except StudyError:
        raise
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        why = f"holds no annotations with labels ({problem})"
        raise StudyError(f"{file} {why}: fetch Stanford Cars anew") from None
    return pd.DataFrame(rows, columns=["file", "number", "name", "family"])


def products(folder: Path) -> pd.DataFrame:
    """List Stanford Online Products: Ebay_train.txt, Ebay_test.txt (image, class, family, path)."""
    rows, columns = [], ["file", "name", "family", "split"]
    for split in ("train", "test"):
        listed = place(folder, f"Ebay_{split}.txt")
        for _, product, _, path in table(listed, columns=4, header=1):
            family = path.split("/")[0].removesuffix("_final")
            file = inside(folder, listed.parent, path)
            rows.append((file, f"{family} {product}", family, split))
    return pd.DataFrame(rows, columns=columns).assign(number=lambda r: pd.factorize(r["name"])[0])


def clothes(folder: Path) -> pd.DataFrame:
    """List In-Shop Clothes: list_eval_partition.txt (image, item, train or query or gallery)."""
    listed = table(place(folder, "list_eval_partition.txt"), columns=3, header=2)
    rows = pd.DataFrame(listed, columns=["file", "name", "split"])
    rows["split"] = rows.split.replace({"query": "test"})
    if unknown := {*rows.split} - {"train", "test", "gallery"}:
        raise StudyError(f"{folder}: status {unknown.pop()!r} is not train, query or gallery")
    base, part = place(folder, "img").parent, rows.file.str.split("/")
    rows = rows.assign(family=part.str[1] + "/" + part.str[2])
    rows["file"] = [inside(folder, base, path) for path in rows.file]
    first = (rows.split != "train").argsort(kind="stable")  # the training items come first
    return rows.iloc[first].assign(number=lambda r: pd.factorize(r["name"])[0])


def class_folders(folder: Path, class_level: int = 0) -> tuple[pd.DataFrame, str]:
    """List a folder of class folders; return a line that says what is a class, too.

    All images lie equally deep. Folders that hold all images are skipped, and first folders that
    are splits (train, test_set) are merged. Then a class is the path of an image's folder, in
    Unicode's form NFC; or the first ``class_level`` folders of it, with all below them.

    Raises:
        StudyError: no images in class folders or at different depths; maybe splits in first ones.
    """
    kinds = Image.registered_extensions().items()
    endings = {e for e, kind in kinds if kind in Image.OPEN and kind not in NOT_IMAGES}
    ending = {file: PurePosixPath(file).suffix.lower() for file in files_of(folder)}
    files = [file for file in ending if ending[file] in endings]
    left = sorted({end or "no ending" for end in ending.values()} - endings)
    unread = f"; not read: {len(ending) - len(files)} files ({', '.join(left)})" if left else ""
    parts = [PurePosixPath(unicodedata.normalize("NFC", file)).parent.parts for file in files]
    top = os.path.commonprefix(parts) if parts else ()
    parts, merged = without_splits(folder, [part[len(top) :] for part in parts])
    if not any(parts):
        why = "no images in two or more class folders: expected <class>/<image>.jpg or .png"
        raise StudyError(f"{folder}: {why}{unread}")
    depth = class_depth(folder, dict(zip(files, parts, strict=True)), class_level)
    rows = pd.DataFrame({"file": files, "name": ["/".join(part[:depth]) for part in parts]})
    names = sorted({*rows.name})
    shown = ", ".join(names if len(names) < 5 else [*names[:3], f"... {names[-1]}"])
    taken = f"{folder}: {len(files)} images of {len(names)} classes ({shown})"
    taken += f"; {' and '.join(merged)} are merged" if merged else ""
    return rows.assign(number=rows.name.map(names.index)), taken + unread


def alike(parts: Iterable[Parts], pattern: re.Pattern[str]) -> list[str]:
    """Return the first folders of a pattern's names, if some hold class folders of equal names."""
    nested = {(part[0], part[-1]) for part in parts if len(part) > 1}
    counts = Counter(last for first, last in nested if pattern.fullmatch(first))
    found = {first for first, last in nested if pattern.fullmatch(first) and counts[last] > 1}
    return sorted(found)


def without_splits(folder: Path, parts: list[Parts]) -> tuple[list[Parts], list[str]]:
    """Return the folders of each image without first folders that are splits, and those splits.

    These are train, test and so on; train_images, seg_test and so on where they hold folders of
    the same names (test_tubes and train_cars are classes).
    """
    merged: list[str] = []
    while any(len(part) > 1 for part in parts):
        first = {part[0] if part else "" for part in parts}
        pattern = DECORATED if alike(parts, DECORATED) else PLAIN
        splits = sorted(filter(pattern.fullmatch, first))
        if len(splits) < 2:
            break
        if others := sorted(first - {*splits}):
            why = (
                f"{' and '.join(splits)} look like splits, {others[0] or 'images beside'} does not"
            )
            raise StudyError(f"{folder}: {why}: move or remove it, or rename them")
        merged, parts = merged or splits, [part[1:] for part in parts]
    return parts, merged


def class_depth(folder: Path, parts: dict[str, Parts], class_level: int) -> int:
    """Return how many folders name a class. ``parts``: the folders of each file."""
    example = {len(part): file for file, part in parts.items()}
    least, most = min(example), max(example)
    if least < class_level or (least < most and not class_level) or not least:
        why = f"{example[least]} and {example[most]} lie {least} and {most} folders deep"
        level = f", or give a level of classes of at most {least}, as in {LEVEL}"
        advice = f"move or remove what is in no class folder{level * (least > 0)}"
        raise StudyError(f"{folder}: {why}: {advice}")
    same = alike(parts.values(), re.compile(".*", re.DOTALL))
    if same and not class_level:
        why = f"{same[0]} and {same[1]} hold folders of the same name"
        advice = f"put each class into one folder, or give its level, as in {LEVEL} or {most}"
        raise StudyError(f"{folder}: {why}: {advice}")
    return class_level or most
