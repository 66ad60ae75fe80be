"""List a dataset's images and their classes: of official layouts, or of a folder of class folders.

A reader returns ``file``, ``name`` (of the class), ``number`` (classes are sorted by it) and, where
there is one, ``split`` of each image.
"""

import argparse
import csv
import itertools
import multiprocessing
import os
import re
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from scipy.io import loadmat
from tqdm import tqdm

from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, cache_root, data_roots, locked, sha256

HIDDEN = re.compile(r"\.|__MACOSX$|lost\+found$")
IMAGE = re.compile(r"(?i)\.(jpe?g|jpe|jfif|png|webp|avif|gif|bmp|tiff?|jp2|ppm|pgm|tga)")
WORDS = r"train(ing)?|val(idation)?|dev|eval(uation)?|test(ing)?|hold_?out"
SPLIT = re.compile(rf"(?i)(.*[\W_])?({WORDS})([\W_\d].*)?")  # train, test_set, seg_train


def table(file: Path, columns: str, header: int = 0) -> pd.DataFrame:
    """Return the words of a text file's lines as named columns."""
    how = {"sep": r"\s+", "skiprows": header, "dtype": str, "quoting": csv.QUOTE_NONE}
    return pd.read_csv(file, names=columns.split(), **how)


def cub(folder: Path) -> pd.DataFrame:
    """List CUB-200-2011."""
    rows = table(folder / "images.txt", "id file")
    rows = rows.merge(table(folder / "image_class_labels.txt", "id number"), how="left")
    rows = rows.merge(table(folder / "classes.txt", "number name"), how="left")
    name = rows.name.str.split(".", n=1).str[-1].str.replace("_", " ")
    return rows.assign(file="images/" + rows.file, name=name, number=rows.number.astype(int))


def cars(folder: Path) -> pd.DataFrame:
    """List Stanford Cars."""
    lists = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
    rows = [
        (f"{part}/{row['fname']}", int(row["class"]))
        for part, file in zip(("cars_train", "cars_test"), lists, strict=True)
        for row in loadmat(folder / file, squeeze_me=True)["annotations"]
    ]
    names = loadmat(folder / "devkit" / "cars_meta.mat", squeeze_me=True)["class_names"]
    every = pd.DataFrame(rows, columns=["file", "number"])
    return every.assign(name=every.number.map(dict(enumerate(names, start=1))).str.strip())


def products(folder: Path) -> pd.DataFrame:
    """List Stanford Online Products."""
    lists = {split: folder / f"Ebay_{split}.txt" for split in ("train", "test")}
    parts = [table(file, "id number kind file", 1).assign(split=s) for s, file in lists.items()]
    every = pd.concat(parts)
    name = every.file.str.split("_final/").str[0] + " " + every.number
    return every.assign(name=name, number=every.number.astype(int))


def clothes(folder: Path) -> pd.DataFrame:
    """List In-Shop Clothes, each split in one piece."""
    every = table(folder / "Eval" / "list_eval_partition.txt", "file name split", header=2)
    split = every.split.map({"train": "train", "query": "test", "gallery": "gallery"})
    number = pd.factorize(every.name, sort=True)[0]
    every = every.assign(file="Img/" + every.file, split=split, number=number)
    return every.sort_values("split", ascending=False, kind="stable")


class Known(NamedTuple):
    """An official dataset."""

    read: Callable[[Path], pd.DataFrame]
    classes: int  # so many are taken
    mark: str  # a file or folder at the top of its layout
    folders: tuple[str, ...]  # or .zip files, of these names or the dataset's own
    origin: str


CARS_ORIGIN = (
    "Stanford Cars (Krause et al. 2013), whose server has answered 404 since May 2023: from a copy "
    "take cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat"
)
INSHOP_ORIGIN = (
    "In-Shop Clothes (Liu et al. 2016), given out under an agreement at mmlab.ie.cuhk.edu.hk/"
    "projects/DeepFashion.html: take Img/img/ (of img.zip) and Eval/list_eval_partition.txt"
)
CUB = Known(cub, 200, "images.txt", ("CUB_200_2011", "cub200"), "CUB-200-2011, data.caltech.edu")
CARS = Known(cars, 196, "devkit", ("stanford_cars", "cars196"), CARS_ORIGIN)
SOP = "Ebay_train.txt", ("Stanford_Online_Products",), "Stanford Online Products, cs.stanford.edu"
INSHOP = "Eval", ("In-shop Clothes Retrieval Benchmark",), INSHOP_ORIGIN
KNOWN = {"cub200": CUB, "cub50": CUB._replace(classes=50), "cub_mini": CUB._replace(classes=10)}
KNOWN |= {"cars196": CARS, "cars50": CARS._replace(classes=50)}
KNOWN |= {"sop": Known(products, 22634, *SOP), "inshop": Known(clothes, 7982, *INSHOP)}
CALTECH = "https://data.caltech.edu/records/65de6-vp158/files"
STANFORD = "http://ftp.cs.stanford.edu/cs/cvgl"
REMOTE = {  # archives and their md5
    "cub200": (f"{CALTECH}/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
    "sop": (f"{STANFORD}/Stanford_Online_Products.zip", "7f73d41a2f44250d4779881525aea32e"),
}
NAMES = ("omniglot", "drawn", *KNOWN, "folder:PATH")


def find(name: str) -> Path:
    """Return an official dataset's folder, unpacked from a zip file where there is one."""
    places = [f"{stem}{end}" for stem in (name, *KNOWN[name].folders) for end in (".zip", "/")]
    for path in (root / place for root in data_roots() for place in places):
        if path.exists():
            return unpacked(path)
    fetching = f"make download DATASET={name} fetches it; or " if name in REMOTE else ""
    sought = f"{' or '.join(places)} in {' and '.join(map(str, data_roots()))}"
    why = f"dataset {name} is not here: looked for {sought}; it is {KNOWN[name].origin}"
    raise StudyError(f"{why}: {fetching}put it there, or set MDR_DATA_ROOT to its folder")


def unpacked(path: Path) -> Path:
    """Return a folder as it is, a zip file unpacked into the cache, anew where it has changed."""
    if path.is_dir():
        return path
    try:
        about = path.stat()
        stamp = sha256([str(path), about.st_size, about.st_mtime_ns])[:16]
        folder = cache_root() / "unpacked" / f"{path.stem}-{stamp}"
        with locked(folder), tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            if not folder.exists():  # of several processes, one unpacks
                with zipfile.ZipFile(path, metadata_encoding="utf-8") as archive:
                    archive.extractall(f"{partial}/all")  # which writes nothing outside
                os.replace(f"{partial}/all", folder)
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        advice = "correct the path; or pack it anew, in UTF-8; or give MDR_CACHE a folder with room"
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


def listed(name: str) -> tuple[Path, pd.DataFrame]:
    """Return the top folder of a dataset's layout, and its images as rows."""
    if name not in KNOWN:
        own = re.fullmatch(r"folder:(.*?)(?:,class_level=([0-9]{1,3}))?", name, re.DOTALL)
        if own is None:
            raise StudyError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
        folder = unpacked(REPOSITORY / os.path.expanduser(own[1]))
        rows, line = class_folders(folder, int(own[2] or 0))
        if multiprocessing.parent_process() is None:  # which says it, where there is one
            tqdm.write(line.replace("\n", " "), file=sys.stderr)
        return folder, rows
    known, folder = KNOWN[name], find(name)
    marks = sorted(folder.rglob(known.mark), key=lambda path: len(path.parts))
    try:
        rows = known.read(top := marks[0].parent if marks else folder)
        if rows.empty or rows.isna().any(axis=None):
            raise ValueError("its lists do not fit together")
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        why = f"is not {name} in its official layout ({type(problem).__name__}: {problem})"
        raise StudyError(f"{folder} {why}: fetch it anew") from None
    return top, rows[pd.factorize(rows.number, sort=True)[0] < known.classes]


def main(argv: list[str] | None = None) -> int:
    """Fetch a dataset's official files into the data root: whole or not at all."""
    from torchvision.datasets.utils import download_and_extract_archive

    parser = argparse.ArgumentParser("python -m mdr_core download", description=main.__doc__)
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
