"""Images as people have them: 16 bits, floats, transparency, odd EXIF, very large ones.

Each image has the size that it is decoded to, so that resizing changes nothing.
"""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mdr_core.data import fingerprint
from mdr_core.data.dataset import load_dataset
from mdr_core.data.image_cache import pixels
from mdr_core.errors import StudyError
from tests.test_own_folders import image_bytes, tree

SIDE = 6
SOME = settings(max_examples=30, deadline=None)
GRAY_16 = arrays(np.uint16, (SIDE, SIDE))
COLORS = arrays(np.uint8, (SIDE, SIDE, 3))
SHOWN = arrays(np.bool_, (SIDE, SIDE))


def saved(values: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return pixels(io.BytesIO(content), SIDE, "it")


@SOME
@given(GRAY_16)
def test_16_bits_are_scaled_in_every_format(values):
    expected = np.repeat(np.round(values / 257)[..., None], 3, axis=2)
    big = values.astype(">u2")
    in_pgm = f"P5\n{SIDE} {SIDE}\n65535\n".encode() + big.tobytes()
    formats = saved(values, "PNG"), saved(values, "TIFF"), saved(big, "TIFF"), in_pgm
    assert formats[1][:2] == b"II" and formats[2][:2] == b"MM"
    for content in formats:
        assert np.array_equal(decoded(content), expected)


@SOME
@given(
    arrays(np.float32, (SIDE, SIDE), elements=st.floats(0, 1, width=32)),
    st.sampled_from([1, 255, 65535]),
)
def test_floats_are_scaled_by_the_least_usual_white(values, white):
    values[0, 0] = 1
    found = decoded(saved(values * np.float32(white), "TIFF"))
    assert np.abs(found[..., 0] - 255.0 * values).max() <= 0.51


@SOME
@given(arrays(np.float32, (SIDE, SIDE), elements=st.floats(width=32)))
def test_any_float_keeps_the_order_of_the_gray_levels(values):
    found = decoded(saved(values, "TIFF"))[..., 0].astype(int)
    finite = np.isfinite(values)
    order = np.argsort(values[finite])
    assert (np.diff(found[finite][order]) >= 0).all()
    if finite.any() and values[finite].min() < 0 < np.ptp(values[finite].astype(float)):
        assert found.min() == 0 and found.max() == 255


def with_alpha(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([colors, alpha[..., None]], axis=2)


@SOME
@given(COLORS, COLORS, SHOWN, st.sampled_from(["PNG", "TIFF", "WEBP", "AVIF"]))
def test_what_is_transparent_is_white_whatever_its_color(colors, hidden, shown, kind):
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}.get(kind, {})
    alpha = np.where(shown, 255, 0).astype(np.uint8)
    one, other = (
        decoded(
            saved(with_alpha(np.where(shown[..., None], colors, below), alpha), kind, **options)
        )
        for below in (colors, hidden)
    )
    assert (one[~shown] == 255).all() and (other[~shown] == 255).all()
    if kind != "AVIF":  # which changes colors beside hidden ones, as JPEG does
        assert np.array_equal(one, other) and np.array_equal(one[shown], colors[shown])


@SOME
@given(COLORS, arrays(np.uint8, (SIDE, SIDE)))
def test_half_transparent_is_mixed_with_white(colors, alpha):
    part = alpha[..., None] / 255
    found = decoded(saved(with_alpha(colors, alpha), "PNG"))
    assert np.abs(found - (part * colors + (1 - part) * 255)).max() <= 1


@SOME
@given(arrays(np.uint8, (SIDE, SIDE), elements=st.integers(0, 7)), st.integers(0, 7), st.booleans())
def test_palettes_and_gray_have_a_transparent_value(values, clear, gif):
    palette = np.random.default_rng(0).integers(0, 255, (8, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    stream = io.BytesIO()
    image.save(stream, "GIF" if gif else "PNG", transparency=clear)
    expected = np.where((values == clear)[..., None], 255, palette[values])
    assert np.array_equal(decoded(stream.getvalue()), expected)
    for gray in (values, values.astype(np.uint16) * 8000):
        white = saved(gray, "PNG", transparency=int(gray.max()))
        found = decoded(white)
        assert (found[gray == gray.max()] == 255).all()
        assert (found[gray < gray.max()] < 255).all()


def exif(entries: list[tuple[int, int, int, bytes]], order: str) -> bytes:
    """Return EXIF of entries: tag, type, count, and four bytes."""
    head = b"Exif\0\0" + (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(f"{order}H", len(entries)) + body + bytes(4)


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([256, 270, 274, 282, 296, 306, 316, 330, 700, 33432, 34665, 34853, 37500]),
        st.integers(0, 14),
        st.sampled_from([0, 1, 2, 5, 1000]),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=4,
)


@pytest.mark.filterwarnings("ignore")  # Pillow's
@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.sampled_from("<>"), st.integers(1, 8), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_an_odd_tag_refuses_no_image(entries, order, orientation, kind):
    upright = (274, 3, 1, struct.pack(f"{order}HH", orientation, 0))
    tags = exif(sorted([*entries, upright], key=lambda entry: entry[0]), order)
    values = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) * 7
    content = saved(np.stack([values] * 3, axis=2), kind, exif=tags)
    plain = saved(np.stack([values] * 3, axis=2), kind)
    found, image = decoded(content), decoded(plain)
    turns = [image, image[:, ::-1], image[::-1, ::-1], image[::-1]]
    turns += [turned.transpose(1, 0, 2) for turned in turns]
    assert any(np.array_equal(found, turned) for turned in turns)


def test_an_orientation_beside_a_tag_of_a_wrong_type_is_applied():
    odd = [(274, 3, 1, struct.pack("<HH", 3, 0)), (282, 2, 4, b"72dp"), (296, 5, 1, bytes(4))]
    content = saved(np.arange(108, dtype=np.uint8).reshape(6, 6, 3), "JPEG", exif=exif(odd, "<"))
    as_stored = pixels(io.BytesIO(content), SIDE, "it", upright=False)
    assert np.array_equal(decoded(content), as_stored[::-1, ::-1])


def test_large_images_are_read_up_to_a_limit_that_is_named(tmp_path, monkeypatch):
    names = [f"{c}/{i}.png" for c in "abcd" for i in "12"]
    path = tree(tmp_path / "in", names)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # the images have 64
    found = load_dataset(f"folder:{path}", None, 8, tmp_path / "cache")
    assert len(found.train.labels) == 4
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    for size in (9, 10):
        with pytest.raises(StudyError, match="png has more than .* megapixels, the most that is"):
            load_dataset(f"folder:{path}", None, size, tmp_path / "cache")
    monkeypatch.undo()
    with pytest.raises(StudyError, match="it has more than 179 megapixels.*make it smaller or rem"):
        decoded(b"P6\n20000 20000\n255\n")


@pytest.mark.parametrize("kind, changes", [("JPEG", False), ("PNG", True)])
@pytest.mark.parametrize("named", ["jpg", "png"])
def test_the_version_for_other_files_is_that_of_the_content(
    tmp_path, monkeypatch, kind, changes, named
):
    """Stored runs on JPEG files are found, and a PNG file that is called .jpg is decoded anew."""
    files = {f"{c}/{i}.{named}": image_bytes(ord(c) + 9 * i, kind) for c in "abcd" for i in (1, 2)}
    path = tree(tmp_path / "in", files)
    first = load_dataset(f"folder:{path}", None, 8, tmp_path / "cache")
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npy")}
    monkeypatch.setattr(fingerprint, "NOT_JPEG", fingerprint.NOT_JPEG + 1)
    again = load_dataset(f"folder:{path}", None, 8, tmp_path / "cache")
    assert (again.fingerprint != first.fingerprint) == changes
    anew = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npy")} != made
    assert anew == (changes or named == "png")
