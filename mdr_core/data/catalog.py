"""The datasets that the study knows: their names, where their files lie, and how many classes and images they have."""

import os
from pathlib import Path

from mdr_core.data import layouts
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY

# name: (zip files and folders to look for, the bare official folder, its reader, official classes, official images,
# where to get it). One folder name, CUB_200_2011, may hold any of three datasets: so it is looked for last.
KNOWN = {
    "cub50": (
        ("cub50",),
        "CUB_200_2011",
        layouts.cub50,
        50,
        2889,
        "the first 50 classes of CUB-200-2011 (Wah et al. 2011), vision.caltech.edu",
    ),
    "cub_mini": (
        ("cub_mini",),
        "CUB_200_2011",
        layouts.cub,
        10,
        80,
        "ten classes of CUB-200-2011 (Wah et al. 2011), eight images each, vision.caltech.edu",
    ),
    "cub200": (
        ("cub200", "CUB_200_2011"),
        "CUB_200_2011",
        layouts.cub,
        200,
        11788,
        "CUB-200-2011 (Wah et al. 2011), vision.caltech.edu",
    ),
    "cars196": (
        ("cars196", "stanford_cars"),
        "stanford_cars",
        layouts.cars,
        196,
        16185,
        "Stanford Cars (Krause et al. 2013), ai.stanford.edu",
    ),
    "sop": (
        ("sop", "Stanford_Online_Products"),
        "Stanford_Online_Products",
        layouts.products,
        22634,
        120053,
        "Stanford Online Products (Oh Song et al. 2016), cvgl.stanford.edu",
    ),
    "inshop": (
        ("inshop", "In-shop Clothes Retrieval Benchmark"),
        "In-shop Clothes Retrieval Benchmark",
        layouts.clothes,
        7982,
        52712,
        "In-Shop Clothes Retrieval of DeepFashion (Liu et al. 2016), mmlab.ie.cuhk.edu.hk",
    ),
}
DOWNLOADS = ("cub200", "cars196", "sop")  # by mdr_core.data.download
NAMES = ("drawn", "drawn_pretraining", *KNOWN, "folder:PATH")


def roots(data_root: str | Path | None) -> list[Path]:
    """Where datasets are looked for, in this order; what is downloaded goes to the last."""
    given = data_root or os.environ.get("MDR_DATA_ROOT")
    return [Path(given)] if given else [REPOSITORY.parent / "shared" / "data", REPOSITORY / "data"]


def find(name: str, data_root: str | Path | None) -> layouts.Source:
    """The dataset's zip file or folder under the data root."""
    stems, official, *_, origin = KNOWN[name]
    places = list(
        dict.fromkeys([*(f"{s}.zip" for s in stems), *(f"{s}/" for s in stems), f"{official}/"])
    )
    for root in roots(data_root):
        for place in places:
            if (root / place).exists():
                return layouts.open_source(root / place)
    wanted = " or ".join(places)
    fetching = f"make download DATASET={name} fetches it; or " if name in DOWNLOADS else ""
    raise StudyError(
        f"dataset {name} is not here: looked for {wanted} in {' and '.join(map(str, roots(data_root)))}; it is {origin}: "
        f"{fetching}put it there, or set MDR_DATA_ROOT or the parameter data_root to its folder"
    )
