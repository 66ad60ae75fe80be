"""Folders of images in every layout, for tests: small images, each of its own content."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mdr_core.errors import StudyError

BIRDS = (
    "001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross",
    "004.Groove-billed_Ani", "005.Rusty_Blackbird", "006.Yellow_headed_Blackbird",
)  # fmt: skip
CARS = "AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012", "Audi S4 2012"
CLOTHES = (
    "id_3 query", "id_1 train", "id_1 train", "id_2 train", "id_2 train", "id_3 gallery",
    "id_4 query", "id_4 gallery", "id_4 gallery", "id_4 query",
)  # fmt: skip


def image_bytes(number: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def tree(root: Path, files: dict[str, bytes | str] | list[str]) -> Path:
    """Write files; where only names are given, images."""
    if not isinstance(files, dict):
        files = {name: image_bytes(number) for number, name in enumerate(files)}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        content = content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(content)
    return root


def jpegs(names: list[str]) -> dict[str, bytes | str]:
    return {name: image_bytes(number, "JPEG") for number, name in enumerate(names)}


def cub(root: Path, birds=BIRDS, each: int = 3) -> Path:
    listed = [f"{bird}/{bird[4:]}_{n:04d}.jpg" for bird in birds for n in range(each)]
    tables = {
        "images": listed,
        "image_class_labels": [1 + birds.index(name.split("/")[0]) for name in listed],
        "classes": birds,
    }
    files = jpegs([f"images/{name}" for name in listed])
    for name, values in tables.items():
        files[f"{name}.txt"] = "".join(f"{i} {v}\n" for i, v in enumerate(values, start=1))
    return tree(root / "CUB_200_2011", files)


def annotations(path: Path, names: list[str], classes: list[int]) -> None:
    rows = np.zeros((1, len(names)), dtype=[("x", object), ("class", object), ("fname", object)])
    for i, (name, number) in enumerate(zip(names, classes, strict=True)):
        rows[0, i] = (1, number, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": rows})


def cars(root: Path) -> Path:
    top, names = root / "stanford_cars", [f"{i:05d}.jpg" for i in range(1, 9)]
    annotations(top / "devkit" / "cars_train_annos.mat", names, [1, 2, 3, 4, 4, 3, 2, 1])
    annotations(top / "cars_test_annos_withlabels.mat", names, [1, 2, 3, 4, 4, 3, 2, 1])
    savemat(top / "devkit" / "cars_meta.mat", {"class_names": np.array([CARS], dtype=object)})
    return tree(top, jpegs([f"{part}/{n}" for part in ("cars_train", "cars_test") for n in names]))


def products(root: Path) -> Path:
    files: dict[str, bytes | str] = {}
    for part, numbers in (("train", (1, 2, 3)), ("test", (4, 5))):
        lines = ["image_id class_id super_class_id path"]
        for number, n in [(number, n) for number in numbers for n in range(2)]:
            path = f"{'bicycle' if number % 2 else 'chair'}_final/{number}_{n}.JPG"
            files[path] = image_bytes(10 * number + n, "JPEG")
            lines.append(f"{2 * number + n} {number} {1 + number % 2} {path}")
        files[f"Ebay_{part}.txt"] = "\n".join(lines) + "\n"
    return tree(root / "Stanford_Online_Products", files)


def clothes(root: Path, rows=CLOTHES) -> Path:
    """``rows``: item and status; one image each."""
    lines, files = [str(len(rows)), "image_name item_id evaluation_status"], {}
    for n, row in enumerate(rows):
        path = f"img/WOMEN/Dresses/{row.split()[0]}/{n:02d}_front.jpg"
        files[f"Img/{path}"] = image_bytes(n, "JPEG")
        lines.append(f"{path} {row.replace(' ', '   ')}")
    files["Eval/list_eval_partition.txt"] = "\n".join(lines).encode()
    return tree(root / "In-shop Clothes Retrieval Benchmark", files)


def zipped(folder: Path, path: Path) -> Path:
    """Pack a folder, with entries for the folders inside; then it is gone."""
    with zipfile.ZipFile(path, "w") as out:
        for p in [folder, *sorted(folder.rglob("*"))]:
            out.write(p, p.relative_to(folder.parent))
    shutil.rmtree(folder)
    return path


def refused(act, *arguments) -> str:
    """Return the one line that it ends with."""
    with pytest.raises(StudyError) as caught:
        act(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
