"""Decode images once, and keep them as one memory-mapped array."""

import contextlib
import io
import json
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
from mdr_core.files import cache_root, locked, replacing, write

# A color profile or a text of a PNG file may be larger than Pillow's 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
DEEP = ("I", "F")  # modes of more than 8 bits begin so


def decoded(folder: Path, files: list[str], size: int, upright: bool) -> tuple[Tensor, list[str]]:
    """Return images (N, 3, size, size), uint8, channels last, and the digest of each file.

    Both are cached, the images memory-mapped. A changed image is decoded anew, a torn cache
    replaced. ``upright``: apply EXIF rotation; the official datasets' protocol does not.
    """
    versions = [fingerprint.DECODING, fingerprint.NOT_JPEG, size, upright]
    key = fingerprint.sha256([versions, [stamp(folder, file) for file in files]])[:16]
    path = cache_root() / "decoded" / f"{key}-{size}.npy"
    shape = (len(files), size, size, 3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):  # of several processes, one decodes
            if not (found := cached(path, shape)):
                decode_to(path, folder, files, size, upright)
                found = cached(path, shape)
    except OSError as problem:
        raise StudyError(
            f"images cannot be decoded to {path} ({problem}): set MDR_CACHE to a folder with room"
        ) from None
    if not found:
        raise StudyError(f"{path} cannot be read back: set MDR_CACHE to another folder")
    return torch.from_numpy(found[0]).permute(0, 3, 1, 2), found[1]


def stamp(folder: Path, file: str) -> list:
    """Return what tells a changed file: its path, size, times of change and inode."""
    with contextlib.suppress(OSError, ValueError):
        if not PurePosixPath(file).is_absolute() and ".." not in file.split("/"):
            about = os.stat(folder / file)
            return [file, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    raise StudyError(f"{folder} lacks {file}: restore it, or fetch the dataset anew")


def cached(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]] | None:
    """Return a stored array, whose changes never reach its file, and digests; None if torn."""
    try:
        images = np.load(path, mmap_mode="c")
        digests = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        whole = images.shape == shape and images.dtype == np.uint8 and len(digests) == shape[0]
        return (images, digests) if whole and isinstance(digests, list) else None
    except Exception:  # noqa: BLE001 - a torn file raises anything
        return None


def decode_to(path: Path, folder: Path, files: list[str], size: int, upright: bool) -> None:
    """Decode into an array (N, size, size, 3) at ``path``, and write the digests beside it."""

    def decode(file: str) -> tuple[np.ndarray | None, str]:
        content = (folder / file).read_bytes()
        try:
            image = pixels(io.BytesIO(content), size, f"{folder}: {file}", upright)
        except StudyError as problem:
            return None, str(problem)
        return image, fingerprint.image_digest(content)

    digests, bad = [], []  # of bad files all are told, not one at a time
    work = Parallel(n_jobs=-1, prefer="threads", batch_size=8, return_as="generator")
    # A partial file of one name: the next process writes over a killed one's.
    with replacing(path, path.with_suffix(".tmp")) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in all threads: Pillow's, of large images and odd EXIF
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
        np.lib.format.write_array_header_1_0(out, header)
        done = work(delayed(decode)(file) for file in files)
        few = len(files) <= 2000
        for image, note in tqdm(done, "decoding", len(files), unit="image", disable=few):
            if image is None:
                bad.append(note)
            else:
                out.write(image.data)
                digests.append(note)
        if bad:
            more = f"; and {len(bad) - 3} more files" * (len(bad) > 3)
            raise StudyError("; ".join(bad[:3]) + more)
        out.flush()
        os.fsync(out.fileno())
        write(path.with_suffix(".json"), json.dumps(digests))


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
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, the most that is read"
        raise StudyError(f"{what} has more than {most}: make it smaller or remove it") from None
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        if isinstance(problem, OSError) and problem.errno:  # the system's, not the image's
            raise StudyError(f"{what} cannot be read ({problem.strerror})") from None
        raise StudyError(
            f"{what} cannot be decoded ({type(problem).__name__}): replace or remove it"
        ) from None


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
