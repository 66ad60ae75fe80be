"""List the datasets that the study knows: where they lie and what they hold."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mdr_core.data import layouts
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY


class Known(NamedTuple):
    """An official dataset: its reader, official counts, official folder, and where it is from."""

    read: Callable[[layouts.Source], layouts.Listing]
    classes: int
    images: int
    folder: str
    origin: str
    whole: str = ""  # the dataset whose files hold this one, too


CUB, CUB_ORIGIN = "CUB_200_2011", "CUB-200-2011 (Wah et al. 2011), vision.caltech.edu"
KNOWN = {
    "cub50": Known(layouts.cub50, 50, 2889, CUB, f"the first 50 classes of {CUB_ORIGIN}"),
    "cub_mini": Known(layouts.cub, 10, 80, CUB, f"80 images of ten classes of {CUB_ORIGIN}"),
    "cub200": Known(layouts.cub, 200, 11788, CUB, CUB_ORIGIN),
    "cars196": Known(
        layouts.cars, 196, 16185, "stanford_cars",
        "Stanford Cars (Krause et al. 2013), ai.stanford.edu",
    ),
    "cars50": Known(
        layouts.cars50, 50, 4047, "stanford_cars",
        "the first 50 classes of Stanford Cars (Krause et al. 2013)", "cars196",
    ),
    "sop": Known(
        layouts.products, 22634, 120053, "Stanford_Online_Products",
        "Stanford Online Products (Oh Song et al. 2016), cvgl.stanford.edu",
    ),
    "inshop": Known(
        layouts.clothes, 7982, 52712, "In-shop Clothes Retrieval Benchmark",
        "In-Shop Clothes Retrieval of DeepFashion (Liu et al. 2016), mmlab.ie.cuhk.edu.hk",
    ),
}  # fmt: skip
DOWNLOADS = ("cub200", "cars196", "sop")  # by mdr_core.data.download
NAMES = ("drawn", "drawn_pretraining", *KNOWN, "folder:PATH")


def roots(data_root: str | Path | None) -> list[Path]:
    """Return where datasets are looked for, in this order; downloads go to the last."""
    given = data_root or os.environ.get("MDR_DATA_ROOT")
    if given:
        return [Path(os.path.expanduser(given))]
    return [REPOSITORY.parent / "shared" / "data", REPOSITORY / "data"]


def find(name: str, data_root: str | Path | None) -> layouts.Source:
    """Return an official dataset's zip file or folder under the data root.

    The dataset's own name comes first: the folder CUB_200_2011 may hold any of three datasets.
    """
    known, among = KNOWN[name], roots(data_root)
    places = [f"{name}.zip", f"{name}/", f"{known.folder}/", f"{known.folder}.zip"]
    if known.whole:
        places += [f"{known.whole}.zip", f"{known.whole}/"]
    for path in (root / place for root in among for place in places):
        if os.path.exists(path):
            return layouts.Source(path)
    fetched = name if name in DOWNLOADS else known.whole
    fetching = f"make download DATASET={fetched} fetches it; or " if fetched else ""
    raise StudyError(
        f"dataset {name} is not here: looked for {' or '.join(places)} in "
        f"{' and '.join(map(str, among))}; it is {known.origin}: {fetching}put it there, or set "
        "MDR_DATA_ROOT or the parameter data_root to its folder"
    )
