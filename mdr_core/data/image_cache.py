"""Decode images once, and keep them as one memory-mapped array."""

import contextlib
import errno
import io
import os
import warnings
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from mdr_core.data import fingerprint
from mdr_core.errors import StudyError
from mdr_core.files import cache_root, locked, replacing

# A color profile or a text of a PNG file may be larger than Pillow's 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
DEEP = ("I", "F")  # modes of more than 8 bits begin so


def decoded(folder: Path, files: list[str], size: int, upright: bool) -> tuple[Tensor, list[str]]:
    """Return images (N, 3, size, size), uint8, channels last, and the digest of each file.

    The images are memory-mapped from a cache, which is named by the digests: a changed image is
    decoded anew. A torn cache is replaced. ``upright``: apply EXIF rotation.
    """
    digests = [fingerprint.image_digest(read(folder, file)) for file in files]
    key = fingerprint.sha256([fingerprint.DECODING, size, upright, digests])[:16]
    path, shape = cache_root() / "decoded" / f"{key}-{size}.npy", (len(files), size, size, 3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):  # of several processes, one decodes
            if (images := cached(path, shape)) is None:
                decode_to(path, folder, files, size, upright)
                images = np.load(path, mmap_mode="c")
    except OSError as problem:
        line = f"{path} cannot be made ({problem}): set MDR_CACHE to a folder with room"
        raise StudyError(line) from None
    return torch.from_numpy(images).permute(0, 3, 1, 2), digests


def read(folder: Path, file: str) -> bytes:
    """Return the content of a file inside a folder."""
    try:
        if ".." in PurePosixPath(file).parts or PurePosixPath(file).is_absolute():
            raise FileNotFoundError(errno.ENOENT, "it is outside")
        return (folder / file).read_bytes()
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", problem)
        raise StudyError(f"{folder}: {file} cannot be read ({why}): restore or unlist it") from None


def cached(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a stored array, whose changes never reach its file; None if it is torn."""
    try:
        images = np.load(path, mmap_mode="c")
        return images if images.shape == shape and images.dtype == np.uint8 else None
    except Exception:  # noqa: BLE001 - a torn file raises anything
        return None


def decode_to(path: Path, folder: Path, files: list[str], size: int, upright: bool) -> None:
    """Decode images into an array (N, size, size, 3) at ``path``."""

    def decode(file: str) -> np.ndarray | StudyError:
        try:
            return pixels(folder / file, size, f"{folder}: {file}", upright)
        except StudyError as problem:
            return problem

    bad = []  # of them all are told, not one at a time
    work = Parallel(n_jobs=-1, prefer="threads", batch_size=8, return_as="generator")
    # A partial file of one name: the next process writes over a killed one's.
    with replacing(path, path.with_suffix(".tmp")) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in all threads: Pillow's, of large images and odd EXIF
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
        np.lib.format.write_array_header_1_0(out, header)
        done = work(delayed(decode)(file) for file in files)
        few = len(files) <= 2000
        for image in tqdm(done, "decoding", len(files), unit="image", disable=few, leave=False):
            if isinstance(image, StudyError):
                bad.append(str(image))
            else:
                out.write(image.data)
        if bad:
            more = f"; and {len(bad) - 3} more files" * (len(bad) > 3)
            raise StudyError("; ".join(bad[:3]) + more)
        out.flush()
        os.fsync(out.fileno())


def pixels(
    file: str | Path | BinaryIO | Image.Image, size: int, what: str, upright: bool = True
) -> np.ndarray:
    """Return one image as RGB, (size, size, 3) uint8, resized with Lanczos, transparency on white.

    Args:
        what: names the image in errors.
        upright: apply EXIF rotation, as photographs by phones want.

    Raises:
        StudyError: it cannot be read or decoded, has more than 8 bits a channel, or more than 179
            megapixels (twice Pillow's ``MAX_IMAGE_PIXELS``).
        MemoryError: there is too little memory for it.
    """
    try:
        image = rgb(file, what, upright).resize((size, size), Image.Resampling.LANCZOS)
        return np.asarray(image)
    except (StudyError, MemoryError):
        raise
    except Image.DecompressionBombError:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels"
        raise StudyError(f"{what} has more than {most}: make it smaller or remove it") from None
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        if isinstance(problem, OSError) and problem.errno:  # the system's, not the image's
            raise StudyError(f"{what} cannot be read ({problem.strerror})") from None
        why = f"cannot be decoded ({type(problem).__name__})"
        raise StudyError(f"{what} {why}: replace or remove it") from None


def rgb(file: str | Path | BinaryIO | Image.Image, what: str, upright: bool) -> Image.Image:
    """Return an image as RGB: see :func:`pixels`."""
    if isinstance(file, Image.Image):
        image = file.copy()
    else:
        content = Path(file).read_bytes() if isinstance(file, (str, Path)) else file.read()
        image = Image.open(io.BytesIO(content))
        image.load()
    if image.mode.startswith(DEEP):
        raise StudyError(f"{what} has more than 8 bits a channel: save it with 8 bits")
    if upright:
        with contextlib.suppress(Exception):  # odd EXIF, met before or after the turn
            ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies, even from RGB
