"""Drawing and decoding give what they gave under the versions that keys hold.

Who changes a pixel must raise DRAWING or DECODING.
The numbers were recorded with numpy 2.4 and Pillow 13; others may round the last place otherwise.
"""

import io

import numpy as np
import pytest
from PIL import Image

from mdr_core.data import drawn_characters, fingerprint, image_cache

DRAWN = {
    1: [
        [165.9, 197.98, 190.53, 152.83, 196.3, 166.29, 186.12, 183.09, 165.82, 144.01],
        [168.37, 193.66, 201.25, 137.32, 195.4, 173.26, 177.72, 175.03, 150.57, 159.83],
    ]
}
DECODED = {
    1: [
        [11, 9, 0, 244, 9, 8, 144, 110, 63, 11, 246, 11, 244, 246, 236],
        [9, 6, 0, 249, 8, 9, 143, 110, 54, 14, 251, 11, 249, 251, 236],
        [8, 8, 8, 79, 79, 79, 115, 115, 115, 149, 149, 149, 244, 244, 244],
        [10, 10, 0, 240, 10, 9, 144, 111, 63, 14, 244, 14, 246, 245, 236],
        [11, 9, 0, 244, 9, 8, 144, 110, 63, 11, 246, 11, 244, 246, 236],
    ]
}


def image(kind: str, mode: str) -> io.BytesIO:
    """Return a smooth image, 24 x 16, that no codec changes much."""
    x, y = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 16))
    pixels = np.stack([255 * x, 255 * y, 255 * x * y], axis=2).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, quality=95)
    stream.seek(0)
    return stream


def five(stream: io.BytesIO) -> list[int]:
    """Return five pixels of an image, decoded to 8 x 8."""
    found = image_cache.pixels(stream, 8, "image")
    return found[[0, 0, 3, 7, 7], [0, 7, 4, 0, 7]].flatten().tolist()


def decoded() -> list[list[int]]:
    """Return five pixels of each image."""
    kinds = ("PNG", "RGB"), ("PNG", "P"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK")
    return [five(image(kind, mode)) for kind, mode in kinds]


def test_the_drawing_is_that_of_its_version():
    """By the mean gray of every 150th test image, and of its upper left quarter."""
    images = drawn_characters.draw("test")[0][::150].numpy().astype(float)
    means = np.stack([part.mean(axis=(1, 2, 3)) for part in (images, images[:, :, :16, :16])])
    expected = np.array(DRAWN[fingerprint.DRAWING])
    assert means == pytest.approx(expected, abs=0.05), "raise DRAWING, record its numbers"


def test_the_decoding_is_that_of_its_version():
    difference = np.array(decoded()) - np.array(DECODED[fingerprint.DECODING])
    assert np.abs(difference).max() <= 2, "raise DECODING, record its numbers here"
