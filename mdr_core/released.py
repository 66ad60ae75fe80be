"""The authors' released checkpoints (Triplet + MDR, BN-Inception, Table 1), evaluated by name.

Their release names no checksum: no code of a checkpoint is run, and its sha256 is printed.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch, retrieval
from mdr_core.files import cache_root, sha256
from mdr_core.networks.backbones import backbone, read_weights
from mdr_core.networks.bn_inception import from_released
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.profiles import MDR, PROFILES, Study

AT = "https://github.com/anonymous-ai-research/pretrained/raw/master/{0}/{0}.pth"


def network(path: Path, config: Config) -> EmbeddingNet:
    """Return the released network; StudyError where the file holds another one."""
    try:
        _, head = from_released(read_weights(path))
        net = backbone("bn_inception", str(path))
        model = EmbeddingNet(net, len(head["bias"]), config.normalization)
        model.linear.load_state_dict(head)
    except (ValueError, KeyError, RuntimeError) as problem:
        raise StudyError(f"{path} is not a released MDR checkpoint: {problem}") from None
    return model.to(config.device).to(memory_format=torch.channels_last)


def main(argv: list[str] | None = None) -> int:
    """Print Recall@K in percent of raw embeddings, as the paper evaluates, and normalized ones."""
    parser = argparse.ArgumentParser("python -m mdr_core released", description=__doc__)
    parser.add_argument("name", choices=PROFILES["paper"].settings)
    parser.add_argument("--checkpoint", type=Path, help="its file, downloaded if it is not there")
    given, device = parser.parse_args(argv), "cuda" if torch.cuda.is_available() else "cpu"
    config = Study("paper").config(MDR, given.name, device=device)
    path, address = given.checkpoint or cache_root() / f"{given.name}.pth", AT.format(given.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            torch.hub.download_url_to_file(address, str(path))
    except OSError as problem:
        raise StudyError(f"cannot download ({problem}): fetch {address} to {path}") from None
    model, images = network(path, config), load_dataset(given.name, image_size=config.image_size)
    embedded = epoch.queries(images).map(partial(epoch.embed_images, config, model))
    for kind, change in {"raw": lambda x: x, "L2": torch.nn.functional.normalize}.items():
        recall = retrieval.recall(retrieval.first_ranks(*embedded.map(change)), config.ks)
        print(kind, *(f"Recall@{k} {value:.1f} %" for k, value in recall.items()), sep="   ")
    print(f"{path}, sha256 {sha256(path.read_bytes())}")
    return 0
