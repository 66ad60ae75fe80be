"""List the datasets that the study knows: where they lie and what they hold."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mdr_core.data import layouts
from mdr_core.data.folders import unpacked
from mdr_core.errors import StudyError
from mdr_core.files import data_roots


class Known(NamedTuple):
    """An official dataset: its reader, official counts, names of its folder, and its origin."""

    read: Callable[[Path], pd.DataFrame]
    classes: int
    images: int
    folders: tuple[str, ...]  # besides its own name; or .zip files of these names
    origin: str


CUB, CUB_ORIGIN = ("CUB_200_2011",), "CUB-200-2011 (Wah et al. 2011), data.caltech.edu"
CARS_ORIGIN = (
    "Stanford Cars (Krause et al. 2013), whose server has answered 404 since May 2023: from a copy "
    "take car_ims/ and cars_annos.mat; or cars_train/, cars_test/, devkit/ and "
    "cars_test_annos_withlabels.mat"
)
SOP_ORIGIN = "Stanford Online Products (Oh Song et al. 2016), ftp.cs.stanford.edu"
INSHOP_ORIGIN = (
    "In-Shop Clothes (Liu et al. 2016), given out under an agreement at mmlab.ie.cuhk.edu.hk/"
    "projects/DeepFashion.html: take img/ (of Img/img.zip) and Eval/list_eval_partition.txt"
)
CARS, SOP = ("stanford_cars",), ("Stanford_Online_Products",)
INSHOP = ("In-shop Clothes Retrieval Benchmark",)
KNOWN = {
    "cub50": Known(layouts.cub, 50, 2889, CUB, f"the first 50 classes of {CUB_ORIGIN}"),
    "cub_mini": Known(layouts.cub, 10, 80, CUB, f"80 images of ten classes of {CUB_ORIGIN}"),
    "cub200": Known(layouts.cub, 200, 11788, CUB, CUB_ORIGIN),
    "cars196": Known(layouts.cars, 196, 16185, CARS, CARS_ORIGIN),
    "cars50": Known(layouts.cars, 50, 4047, (*CARS, "cars196"), CARS_ORIGIN),
    "sop": Known(layouts.products, 22634, 120053, SOP, SOP_ORIGIN),
    "inshop": Known(layouts.clothes, 7982, 52712, INSHOP, INSHOP_ORIGIN),
}
DOWNLOADS = ("cub200", "sop")  # by mdr_core.data.download
NAMES = ("drawn", "drawn_pretraining", *KNOWN, "folder:PATH")


def find(name: str) -> Path:
    """Return an official dataset's folder, unpacked from a zip file where there is one.

    The dataset's own name comes first: the folder CUB_200_2011 may hold any of three datasets.
    """
    places = [f"{stem}{end}" for stem in (name, *KNOWN[name].folders) for end in (".zip", "/")]
    for path in (root / place for root in data_roots() for place in places):
        if path.exists():
            return unpacked(path)
    fetching = f"make download DATASET={name} fetches it; or " if name in DOWNLOADS else ""
    raise StudyError(
        f"dataset {name} is not here: looked for {' or '.join(places)} in "
        f"{' and '.join(map(str, data_roots()))}; it is {KNOWN[name].origin}: {fetching}put it "
        "there, or set MDR_DATA_ROOT to its folder"
    )
