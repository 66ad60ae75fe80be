"""A trained network with an index of images: kept in a folder, loaded and searched.

from mdr_core.search import ImageSearch
search = ImageSearch.load("my_index")
print(search.nearest("photo.jpg", k=5))
"""

import json
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors

from mdr_core.config import Config, from_dict
from mdr_core.data import augmentation
from mdr_core.data.dataset import Split
from mdr_core.data.fingerprint import sha256
from mdr_core.data.image_cache import pixels
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.files import check_writable, write
from mdr_core.networks.backbones import backbone
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.runs.store import Record, RunStore

FILES = WEIGHTS, CONFIG, INDEX = ("weights.safetensors", "config.json", "gallery.faiss")
UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, SafetensorError
)  # fmt: skip


@dataclass
class ImageSearch:
    """A network and the embedded images that it searches."""

    model: EmbeddingNet  # in eval mode
    config: Config  # of the run that trained it
    index: faiss.IndexFlatL2  # exact, Euclidean
    names: list[str]  # the class of each image in the index
    paths: list[str]  # where each image came from

    @classmethod
    def of_run(cls, record: Record, root: Path, gallery: Split) -> "ImageSearch":
        """Return a stored run's network with a split's images as the gallery."""
        config, weights = from_dict(record["config"]), RunStore(root).weights(record)
        model = trained_network(
            config, {k: v for k, v in weights.items() if not k.startswith("mdr.")}
        )
        index = faiss.IndexFlatL2(config.dim)
        index.add(epoch.embed_split(config, model, gallery).numpy())
        names = [gallery.class_names[c] for c in gallery.labels.tolist()]
        return cls(model, config, index, names, list(gallery.paths))

    def save(self, folder: str | Path) -> Path:
        """Write FILES, each whole or not at all, and return their folder.

        The configuration is the last, with the checksums of the others: so half of a new index
        beside half of an old one is found out.
        """
        folder = Path(folder).expanduser()
        check_writable(folder, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.contiguous() for k, v in self.model.state_dict().items()}
        content = {
            WEIGHTS: safetensors(weights),
            INDEX: faiss.serialize_index(self.index).tobytes(),
        }
        about = {"config": self.config.to_dict(), "names": self.names, "paths": self.paths}
        about["files"] = {name: sha256(data) for name, data in content.items()}
        for name, data in content.items():
            write(folder / name, data)
        write(folder / CONFIG, json.dumps(about, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "ImageSearch":
        """Read what :meth:`save` wrote; no code is run from the files."""
        folder = Path(folder).expanduser()
        for name in FILES:
            if not (folder / name).is_file():
                raise StudyError(f"{folder} is not a saved index: it lacks {name}")
        try:
            about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            config, names, paths = from_dict(about["config"]), about["names"], about["paths"]
            for name, checksum in about.get("files", {}).items():  # of older ones unknown
                if name in FILES and sha256((folder / name).read_bytes()) != checksum:
                    raise ValueError(f"{name} has changed, or is of another index")
            content = np.fromfile(folder / INDEX, dtype=np.uint8)
            index = flat_index(content, len(names), config.dim)
            if len(paths) != index.ntotal:
                raise ValueError("its files do not belong together")
            model = trained_network(config, load_file(folder / WEIGHTS))
        except UNREADABLE as problem:
            raise StudyError(
                f"{folder} is not a saved index that can be read: {problem}".splitlines()[0]
            ) from None
        return cls(model, config, index, names, paths)

    def embed(self, images: torch.Tensor) -> np.ndarray:
        """Return the embeddings (N, D) of square images (N, 3, S, S) uint8."""
        crops = augmentation.center_crop(images, self.config.resize, self.config.crop)
        return epoch.embed(self.model, crops).numpy()

    def nearest(self, image: str | Path, k: int = 5) -> pd.DataFrame:
        """Return the k images nearest to an image file.

        Returns:
            ``class``, ``path``, ``distance`` (Euclidean), ``place`` in the index.
        """
        path = Path(image).expanduser()
        if not path.is_file():
            raise StudyError(f"there is no image {path}")
        if k < 1:
            raise StudyError(f"k must be at least 1, got {k}")
        query = torch.from_numpy(pixels(path, self.config.image_size, str(path)).copy())
        squared, found = self.index.search(
            self.embed(query.permute(2, 0, 1)[None]), min(k, self.index.ntotal)
        )
        places = found[0].tolist()
        return pd.DataFrame(
            {
                "class": [self.names[i] for i in places],
                "path": [self.paths[i] for i in places],
                "distance": np.sqrt(squared[0].clip(min=0)),
                "place": places,
            }
        )


def flat_index(content: np.ndarray, count: int, dim: int) -> faiss.IndexFlatL2:
    """Return the index of a file's bytes, which are not given to faiss: it may not survive them.

    The embeddings (count, dim) are the file's end; the index made of them must give the very same
    bytes.

    Raises:
        ValueError: it is not the file of ``count`` embeddings of ``dim`` dimensions.
    """
    index = faiss.IndexFlatL2(dim)
    head = faiss.serialize_index(index).size
    if count < 1 or content.size != head + 4 * count * dim:
        raise ValueError("its index is not of the images that its configuration lists")
    index.add(content[head:].copy().view(np.float32).reshape(count, dim))
    if not np.array_equal(faiss.serialize_index(index), content):
        raise ValueError("its index is not the exact Euclidean one that save writes")
    return index


def trained_network(config: Config, weights: dict[str, torch.Tensor]) -> EmbeddingNet:
    """Return the network of a configuration with trained weights, in eval mode."""
    net = backbone(config.backbone, "random")
    model = EmbeddingNet(net, config.dim, config.normalization, config.freeze_batch_norm)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()
