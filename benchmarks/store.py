"""(e) Building the store of decoded images on all cores against decoding one image at a time, from
JPEG files at full size.
"""

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import timing
from mdr_core.data import catalog, dataset, image_cache, layouts

IMAGES, SIDE, SIZE = (
    400,
    500,
    256,
)  # of the photographs that are drawn where the real ones are absent, and of the store


def photographs(folder: Path) -> tuple[layouts.Source, list[str]]:
    """cub_mini's photographs at their original size, or drawn ones where they are absent; and the
    names of the files.
    """
    try:
        source = catalog.find("cub_mini", None)
    except dataset.StudyError:
        rng = np.random.default_rng(0)
        for i in range(IMAGES):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            stream = io.BytesIO()
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=90)
            (folder / f"{i:04d}.jpg").write_bytes(stream.getvalue())
        source = layouts.Source(folder)
    return source, [f for f in source.files if f.endswith(".jpg")]


def measure() -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, files = photographs(folder)

        def one_at_a_time():
            with open(folder / "one", "wb") as file:
                for f in files:
                    file.write(image_cache.pixels(io.BytesIO(source.read(f)), SIZE, f, False))
                file.flush()
                os.fsync(file.fileno())

        seconds = timing.alternately(
            {
                "store": lambda: image_cache.decode_to(folder / "store.npy", source, files, SIZE),
                "one": one_at_a_time,
            },
            rounds=7,
        )
    cores = len(os.sched_getaffinity(0))
    factor = seconds["one"] / seconds["store"]
    return pd.DataFrame(
        [
            {
                "images": len(files),
                "cores": cores,
                "seconds": seconds["store"],
                "images a second": len(files) / seconds["store"],
                "one at a time, times": factor,
                "times per core": factor / cores,
            }
        ]
    )
