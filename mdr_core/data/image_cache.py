"""Images decoded once, and kept as one memory-mapped array."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mdr_core.data import fingerprint, layouts
from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, locked

AT_A_TIME = 8  # images that a thread decodes in one go


def decoded(
    source: layouts.Source, files: list[str], size: int, cache_root: str | Path | None
) -> tuple[Tensor, Path]:
    """All images, decoded and resized once, and the file that keeps them.

    The file's name hashes the decoder's version, size, paths and stamps, so that a changed image is decoded anew. A torn file is replaced.

    Returns:
        (N, 3, size, size) uint8, channels last, memory-mapped; the path of the .npy file, (N, size, size, 3).
    """
    stamps = [(file, *source.stamp(file)) for file in files]
    key = sha256([fingerprint.DECODING, size, source.upright, stamps])[:16]
    folder = Path(cache_root or os.environ.get("MDR_CACHE") or REPOSITORY / ".cache") / "decoded"
    path, shape = folder / f"{key}-{size}.npy", (len(files), size, size, 3)
    if (images := kept(path, shape)) is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path):  # of several processes, one decodes
                if kept(path, shape) is None:
                    decode_to(path, shape, source, files, size)
        except OSError as problem:
            raise StudyError(
                f"{path} cannot be made ({problem}): set MDR_CACHE to a folder with room"
            ) from None
        images = kept(path, shape)
        if images is None:
            raise StudyError(
                f"{path} cannot be read back: is the disk full? Set MDR_CACHE to a folder with room"
            )
    return torch.from_numpy(images).permute(0, 3, 1, 2), path


def kept(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array of an earlier run, memory-mapped (what is written to it never reaches the file); None where there is
    none or it is torn."""
    try:
        images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def decode_to(
    path: Path, shape: tuple[int, ...], source: layouts.Source, files: list[str], size: int
) -> None:
    """Decode in threads into a file beside ``path``, then move it into place: nobody sees half of it.

    Raises:
        StudyError: an image cannot be decoded. OSError: the file cannot be written.
    """
    partial = path.with_suffix(".tmp")  # a killed process's half is written over

    def some(
        chunk: range,
    ) -> int:  # written without holding Python's lock, and without the page faults of a memory map
        for i in chunk:
            image = decode(source, files[i], size)
            if os.pwrite(file.fileno(), image, start + i * image.nbytes) < image.nbytes:
                raise OSError("no space left")
        if hasattr(os, "posix_fadvise"):  # what is written goes to the disk while decoding goes on
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return len(chunk)

    try:
        with open(partial, "wb") as file, warnings.catch_warnings():
            warnings.simplefilter(
                "error", Image.DecompressionBombWarning
            )  # here: the threads share the filters
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            file.flush()
            start = file.tell()
            chunks = [
                range(i, min(i + AT_A_TIME, len(files))) for i in range(0, len(files), AT_A_TIME)
            ]
            work = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")(
                map(delayed(some), chunks)
            )
            with tqdm(
                total=len(files),
                desc="decoding",
                unit="image",
                disable=len(files) <= 2000,
                leave=False,
            ) as bar:
                for count in work:
                    bar.update(count)
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def decode(source: layouts.Source, file: str, size: int) -> np.ndarray:
    """One image of a source, as :func:`pixels` gives it."""
    return pixels(source.open(file), size, f"{source.path}: {file}", source.upright)


def pixels(image: Path | BinaryIO, size: int, what: str, upright: bool = True) -> np.ndarray:
    """One image, RGB (grey, palette and CMYK are converted), resized with Lanczos to (size, size, 3) uint8.

    Args:
        upright: turn it as its EXIF says, as a phone's photographs want; the official datasets' protocol does not.

    Raises:
        StudyError: it cannot be decoded; ``what`` names it.
    """
    try:
        with Image.open(image) as opened:
            image = ImageOps.exif_transpose(opened) if upright else opened
            image = (
                image if image.mode == "RGB" else image.convert("RGB")
            )  # which copies, even from RGB
            return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    except Exception as problem:
        raise StudyError(
            f"{what} cannot be decoded ({type(problem).__name__}): replace or remove it"
        ) from None
