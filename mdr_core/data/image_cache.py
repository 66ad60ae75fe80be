"""Decode images once, and keep them as one memory-mapped array."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from mdr_core.errors import StudyError
from mdr_core.files import cache_root, locked, replacing, sha256, write

# The version of this code. Raise it when a pixel may change by more than rounding: a dataset's
# fingerprint is of its files, not of pixels.
DECODING = 1
# A color profile or a text of a PNG file may be larger than Pillow's 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def decoded(folder: Path, files: list[str], size: int, upright: bool) -> tuple[Tensor, list[str]]:
    """Return images (N, 3, size, size) uint8, memory-mapped, and the digest of each file."""
    about = [DECODING, size, upright, str(folder), files]
    cache = cache_root() / "decoded"
    try:  # a file is known by its path, size and time of change
        stats = [os.stat(folder / file) for file in files]
        about += [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        path = cache / f"{sha256(about)[:16]}-{size}.npy"
        with locked(path):  # of several processes, one decodes
            if not path.exists():
                decode_to(path, folder, files, size, upright)
        images = torch.from_numpy(np.load(path, mmap_mode="c"))  # whose changes stay in memory
        return images.permute(0, 3, 1, 2), json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError) as problem:
        advice = "restore what is missing, or set MDR_CACHE to a folder with room"
        raise StudyError(f"{folder} is not decoded to {cache} ({problem}): {advice}") from None


def decode_to(path: Path, folder: Path, files: list[str], size: int, upright: bool) -> None:
    """Decode images into an array (N, size, size, 3) at ``path``, their digests beside it."""

    def decode(file: str) -> tuple[str, np.ndarray]:
        content = (folder / file).read_bytes()
        return sha256(content), pixels(io.BytesIO(content), size, f"{folder}: {file}", upright)

    digests, work = list[str](), Parallel(-1, prefer="threads", batch_size=8, return_as="generator")
    with replacing(path) as out:
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
        np.lib.format.write_array_header_1_0(out, about)
        done = work(delayed(decode)(file) for file in files)
        for digest, image in tqdm(done, "decoding", len(files), leave=False, delay=2):
            out.write(image.tobytes())  # a memory map would die of a full disk
            digests.append(digest)
        write(path.with_suffix(".json"), json.dumps(digests))


def pixels(
    file: str | Path | BinaryIO | Image.Image, size: int, what: str, upright: bool = True
) -> np.ndarray:
    """Return one image as RGB, (size, size, 3) uint8, resized with Lanczos, transparency on white.

    ``upright``: apply EXIF rotation. StudyError, which names the image ``what``: it cannot be
    decoded, is gray of more than 8 bits or has more than 179 megapixels.
    """
    try:
        file = Path(file).expanduser() if isinstance(file, str | Path) else file
        image = file.copy() if isinstance(file, Image.Image) else Image.open(file)
        image.load()
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits a channel: save it with 8 bits")
        if upright:
            with contextlib.suppress(Exception):  # odd EXIF, met before or after the turn
                ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image if image.mode == "RGB" else image.convert("RGB")  # copies, even from RGB
        return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    except MemoryError:
        raise
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        if isinstance(problem, OSError) and problem.errno:  # the system's, not the image's
            raise StudyError(f"{what} cannot be read ({problem.strerror})") from None
        why = type(problem).__name__ if isinstance(problem, OSError) else problem
        raise StudyError(f"{what} cannot be decoded ({why}): replace or remove it") from None
