"""Decode images once, and keep them as one memory-mapped array."""

import contextlib
import io
import json
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mdr_core.data import fingerprint
from mdr_core.data.layouts import Source
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, locked, replacing, write

AT_A_TIME = 8  # images that a thread decodes in one go
JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


def decoded(
    source: Source, files: list[str], size: int, cache_root: str | Path | None
) -> tuple[Tensor, list[str]]:
    """Return images (N, 3, size, size), uint8, channels last, and the digest of each file.

    Both are cached, the images memory-mapped. The cache's name hashes the decoder's versions, size,
    paths and stamps, so that a changed image is decoded anew. A torn cache is replaced.
    """
    stamps = [(file, *source.stamp(file)) for file in files]
    named: list = [fingerprint.DECODING, size, source.upright, stamps]
    if not all(file.lower().endswith(JPEG_ENDINGS) for file in files):
        named.append(fingerprint.NOT_JPEG)
    root = cache_root or os.environ.get("MDR_CACHE") or REPOSITORY / ".cache"
    folder, key = Path(os.path.expanduser(root)) / "decoded", fingerprint.sha256(named)[:16]
    path, shape = folder / f"{key}-{size}.npy", (len(files), size, size, 3)
    if not (found := cached(path, shape)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path):  # of several processes, one decodes
                if not cached(path, shape):
                    decode_to(path, source, files, size)
        except OSError as problem:
            raise StudyError(
                f"{path} cannot be made ({problem}): set MDR_CACHE to a folder with room"
            ) from None
        found = cached(path, shape)
    if not found:
        raise StudyError(f"{path} cannot be read back: set MDR_CACHE to another folder")
    return torch.from_numpy(found[0]).permute(0, 3, 1, 2), found[1]


def cached(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]] | None:
    """Return a stored array, whose changes never reach its file, and digests; None if torn."""
    try:
        images = np.load(path, mmap_mode="c")
        digests = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        digest = re.compile(f"[0-9a-f]{{64}}(-{fingerprint.NOT_JPEG})?")  # of this decoding
        known = isinstance(digests, list) and all(map(digest.fullmatch, digests))
        whole = images.shape == shape and images.dtype == np.uint8 and len(digests) == len(images)
        return (images, digests) if whole and known else None
    except Exception:  # noqa: BLE001 - a torn file raises anything
        return None


def decode_to(path: Path, source: Source, files: list[str], size: int) -> None:
    """Decode into an array (N, size, size, 3) at ``path``, and write the digests beside it.

    Threads write without holding Python's lock, and without the page faults of a memory map.
    """

    def store(i: int) -> str:
        content = source.read(files[i])
        try:
            image = pixels(io.BytesIO(content), size, f"{source.path}: {files[i]}", source.upright)
        except StudyError as problem:
            bad.append(str(problem))
            return ""
        if os.pwrite(file.fileno(), image.data, start + i * image.nbytes) < image.nbytes:
            raise OSError("no space left")
        if i % AT_A_TIME == 0 and hasattr(os, "posix_fadvise"):  # the disk is written meanwhile
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return fingerprint.image_digest(content)

    bad: list[str] = []  # files that cannot be decoded: all are told, not one at a time
    # A partial file of one name: the next process writes over a killed one's.
    with replacing(path, path.with_suffix(".tmp")) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in all threads: Pillow's, of large images and odd EXIF
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        start = file.tell()
        work = Parallel(n_jobs=-1, prefer="threads", batch_size=AT_A_TIME, return_as="generator")
        done = work(delayed(store)(i) for i in range(len(files)))
        few = len(files) <= 2000
        digests = [*tqdm(done, "decoding", len(files), unit="image", disable=few, leave=False)]
        if bad:
            more = f"; and {len(bad) - 3} more files" * (len(bad) > 3)
            raise StudyError("; ".join(sorted(bad)[:3]) + more)
        os.fsync(file.fileno())
        write(path.with_suffix(".json"), json.dumps(digests))


def pixels(file: Path | BinaryIO, size: int, what: str, upright: bool = True) -> np.ndarray:
    """Return one image as RGB, (size, size, 3) uint8, resized with Lanczos.

    Args:
        what: names the image in the StudyError where it cannot be decoded, or is larger than twice
            Pillow's ``MAX_IMAGE_PIXELS``: 179 megapixels.
        upright: apply EXIF rotation, as photographs by phones want.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            if upright:
                with contextlib.suppress(Exception):  # odd EXIF, met before or after the turn
                    ImageOps.exif_transpose(opened, in_place=True)
            image = eight_bits(opened)
            if image.has_transparency_data:  # it is seen on a white page
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            if image.mode != "RGB":  # convert() copies, even from RGB
                image = image.convert("RGB")
            return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    except Image.DecompressionBombError:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, the most that is read"
        raise StudyError(f"{what} has more than {most}: make it smaller or remove it") from None
    except Exception as problem:  # noqa: BLE001 - foreign bytes raise anything
        raise StudyError(
            f"{what} cannot be decoded ({type(problem).__name__}): replace or remove it"
        ) from None


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a gray image of 16 or 32 bits scaled to 8; any other as it is.

    Black and white are 0 and 65535 in 16 bits. In 32 bits white is the least of 1 (floats alone),
    255 and 65535 that no pixel exceeds; where one does, or is negative, the image's own extremes
    count.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    black, white = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    whites: tuple[int, ...] = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        whites = (65535,)
    if fitting := [usual for usual in whites if black >= 0 and white <= usual]:
        black, white = 0, fitting[0]
    bounded = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    gray = (bounded - black) * (255 / max(white - black, 1e-300))
    if isinstance(clear := image.info.get("transparency"), int):  # PNG's
        gray[values == clear] = 255
    return Image.fromarray(gray.round().astype(np.uint8))
