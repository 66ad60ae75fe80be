"""Images as people have them: transparency, EXIF, large ones, and those that are refused.

Each image has the size that it is decoded to, so that resizing changes nothing.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mdr_core.data import image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.data.image_cache import pixels
from tests.trees import image_bytes, refused, tree

SIDE = 6
SOME = settings(max_examples=30, deadline=None)
COLORS = arrays(np.uint8, (SIDE, SIDE, 3))
FOUR = [(c, i) for c in "abcd" for i in (1, 2)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))


def saved(values: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, upright: bool = True) -> np.ndarray:
    return pixels(io.BytesIO(content), SIDE, "it", upright)


@pytest.mark.parametrize("values, kind", [
    (np.ones((SIDE, SIDE), np.uint16), "PNG"), (np.ones((SIDE, SIDE), ">u2"), "TIFF"),
    (np.ones((SIDE, SIDE), np.int32), "TIFF"), (np.ones((SIDE, SIDE), np.float32), "TIFF"),
])  # fmt: skip
def test_more_than_8_bits_are_refused(tmp_path, values, kind):
    path = tree(tmp_path / "in", {f"{c}/{i}.tif": saved(values, kind) for c, i in FOUR})
    line = refused(load_dataset, f"folder:{path}", 8)
    assert f"{path}: " in line and "more than 8 bits a channel: save it with 8 bits" in line


@SOME
@given(COLORS, arrays(np.uint8, (SIDE, SIDE)), st.sampled_from(["PNG", "TIFF", "WEBP"]))
def test_transparent_colors_are_mixed_with_white(colors, alpha, kind):
    part = alpha[..., None] / 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decoded(saved(np.concatenate([colors, alpha[..., None]], axis=2), kind, **options))
    assert np.abs(found - (part * colors + (1 - part) * 255)).max() <= 1


def test_an_orientation_is_applied_to_a_user_s_photographs_alone(tmp_path):
    odd = [(274, 3, 1, b"\3\0\0\0"), (282, 2, 4, b"72dp"), (296, 5, 1, bytes(4))]
    entries = b"".join(struct.pack("<HHI4s", *entry) for entry in odd)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x03\0" + entries + bytes(4)
    content = saved(np.arange(108, dtype=np.uint8).reshape(6, 6, 3), "JPEG", exif=exif)
    as_stored = decoded(content, upright=False)
    assert np.array_equal(decoded(content), as_stored[::-1, ::-1])
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c, i in FOUR])
    images = load_dataset(f"folder:{tree(path, {'a/0.jpg': content})}", SIDE).train.images
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), as_stored[::-1, ::-1])


DECODED = {  # version -> five pixels of each kind of image, recorded with Pillow 13
    1: [
        [11, 9, 0, 244, 9, 8, 144, 110, 63, 11, 246, 11, 244, 246, 236],
        [9, 6, 0, 249, 8, 9, 143, 110, 54, 14, 251, 11, 249, 251, 236],
        [8, 8, 8, 79, 79, 79, 115, 115, 115, 149, 149, 149, 244, 244, 244],
        [10, 10, 0, 240, 10, 9, 144, 111, 63, 14, 244, 14, 246, 245, 236],
        [11, 9, 0, 244, 9, 8, 144, 110, 63, 11, 246, 11, 244, 246, 236],
    ]
}
KINDS = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK")]


@pytest.mark.parametrize("number", range(5))
def test_the_decoding_is_that_of_its_version(number):
    """Of a smooth image, 24 x 16, that no codec changes much."""
    (kind, mode), stream = KINDS[number], io.BytesIO()
    x, y = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 16))
    smooth = np.stack([255 * x, 255 * y, 255 * x * y], axis=2).round().astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(stream, kind, quality=95)
    stream.seek(0)
    found = pixels(stream, 8, "image")[[0, 0, 3, 7, 7], [0, 7, 4, 0, 7]].flatten().tolist()
    expected = DECODED[image_cache.DECODING][number]
    assert np.abs(np.subtract(found, expected)).max() <= 2, "raise DECODING, record its numbers"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind, start", [
    (b"iCCP", b"p\0\0"), (b"zTXt", b"Raw profile type xmp\0\0"), (b"iTXt", b"XML\0\1\0\0\0"),
])  # fmt: skip
def test_a_png_with_a_large_profile_or_text_is_read(kind, start):
    raw = image_bytes(0)
    large = chunk(kind, start + zlib.compress(b"a" * 2**22))
    assert np.array_equal(decoded(raw[:33] + large + raw[33:]), decoded(raw))
