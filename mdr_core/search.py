"""Search images by a trained network, ``ImageSearch.load("my_index").nearest("photo.jpg")``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import torch as safetensors

from mdr_core.config import Config
from mdr_core.data.dataset import Split
from mdr_core.data.image_cache import pixels
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.evaluation.retrieval import full_float32
from mdr_core.files import sha256, write
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.runs.local import Record, tensors
from mdr_core.training import start

FILES = WEIGHTS, INDEX, CONFIG = "weights.safetensors", "gallery.faiss", "config.json"
TRAINING = 100_000  # embeddings, at most, that an index is trained on


@dataclass
class ImageSearch:
    """A network and the embedded images that it searches.

    Set an approximate index before it is saved (``index.nprobe = 16``). Search in processes that
    are started by "spawn": torch hangs in forked ones.
    """

    model: EmbeddingNet  # in eval mode
    config: Config  # of the run that trained it
    index: faiss.Index  # of Euclidean distances
    names: list[str]  # the class of each image in the index
    paths: list[str]  # where each image came from

    @classmethod
    def of_run(cls, record: Record, split: Split, factory: str = "Flat") -> "ImageSearch":
        """Return a stored run's network, with the images of a split to search.

        ``factory`` is ``faiss.index_factory``'s: "Flat" is exact, "IVF4096,PQ64" is trained on a
        sample of the images, keeps 64 bytes of each, and misses some of the nearest.
        """
        if (weights := tensors(record, "weights")) is None:
            raise StudyError(f"run {record['key']} has no weights: remove its folder and train it")
        model = trained_network(config := Config(**record["config"]), weights)
        embeddings = epoch.embed_images(config, model, split.images).numpy()
        try:
            index = faiss.index_factory(config.dim, factory)
            index.train(embeddings[:: -(-len(embeddings) // TRAINING)].copy())
            index.add(embeddings)
        except RuntimeError as problem:
            raise StudyError(f"faiss refuses the index {factory!r}: {problem}") from None
        names = [split.class_names[c] for c in split.labels.tolist()]
        return cls(model, config, index, names, list(split.paths))

    def save(self, folder: str | Path) -> Path:
        """Write FILES into a folder, which is returned; the last one has the others' checksums."""
        (folder := Path(folder).expanduser()).mkdir(parents=True, exist_ok=True)
        model = getattr(self.model, "_orig_mod", self.model)  # of a compiled one
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        content = [safetensors.save(weights), faiss.serialize_index(self.index).tobytes()]
        about = {"config": self.config.model_dump(), "names": self.names, "paths": self.paths}
        about["sha256"] = [sha256(each) for each in (*content, about)]
        for name, each in zip(FILES, [*content, json.dumps(about).encode()], strict=True):
            write(folder / name, each)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "ImageSearch":
        """Read what :meth:`save` wrote. No code is run from it; changed files are a StudyError."""
        folder = Path(folder).expanduser()
        try:
            *content, about = ((folder / name).read_bytes() for name in FILES)
            values = json.loads(about)
            config, names, paths = Config(**values["config"]), values["names"], values["paths"]
            if values.pop("sha256") != [sha256(each) for each in (*content, values)]:
                raise ValueError("a file has changed, or is of another index")
            index = faiss.deserialize_index(np.frombuffer(content[1], dtype=np.uint8))
            model = trained_network(config, safetensors.load(content[0]))
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError) as bad:
            raise StudyError(f"{folder} is no saved index that can be read: {bad}") from None
        return cls(model, config, index, names, paths)

    def nearest(self, image: Any, k: int = 5) -> pd.DataFrame:
        """Return the k nearest images (or all): ``class``, ``path``, ``distance``, ``place``.

        ``image`` is a path, a binary file, a PIL image, or RGB in uint8 (H, W, 3).
        """
        if k != int(k) or k < 1:
            raise StudyError(f"k must be a whole number of at least 1, got {k}")
        what = f"image {image}" if isinstance(image, str | Path) else "the image"
        try:
            known = isinstance(image, str | Path | Image.Image) or hasattr(image, "read")
            image = image if known else Image.fromarray(np.asarray(image))
        except (TypeError, ValueError) as problem:
            how = "give an image's path, a PIL image, or RGB in uint8"
            raise StudyError(f"{how}: {problem}") from None
        rgb = pixels(image, self.config.image_size, what)
        query = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        embedding = epoch.embed_images(self.config, self.model, query[None]).numpy()
        d, (found,) = self.index.search(embedding, min(int(k), self.index.ntotal))
        places = found[found >= 0].tolist()  # an approximate index may find fewer
        images = [(self.names[i], self.paths[i], i) for i in places]
        table = pd.DataFrame(images, columns=["class", "path", "place"])
        table.insert(2, "distance", np.sqrt(d[0, : len(places)].clip(min=0)))
        return table


@full_float32()
def trained_network(config: Config, weights: dict[str, torch.Tensor]) -> EmbeddingNet:
    model = start(config.replace(weights="random", device="cpu")).model
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("mdr.")})
    return model.eval()
