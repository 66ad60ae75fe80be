"""The authors' released checkpoints (Triplet + MDR, BN-Inception, Table 1), evaluated by name.

    python -m mdr_core released cub200                              # downloads the checkpoint
    python -m mdr_core released cub200 --checkpoint cub200.pth      # one that is here already

Their release names no checksum. A checkpoint is read by ``torch.load(weights_only=True)``, which
runs no code of it, and must have this network's names and shapes; its sha256 is printed.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from mdr_core.config import Config
from mdr_core.data.fingerprint import sha256
from mdr_core.errors import StudyError, unknown
from mdr_core.evaluation import epoch, retrieval
from mdr_core.evaluation.retrieval import RetrievalSet
from mdr_core.networks import backbones
from mdr_core.networks.bn_inception import from_released
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.runs.store import RunStore
from mdr_core.study import profiles

AT = "https://github.com/anonymous-ai-research/pretrained/raw/master/{0}/{0}.pth"
NAMES = profiles.datasets("paper")


def checkpoint(name: str) -> Path:
    """Return the released checkpoint of a dataset, downloaded once into torch.hub's folder.

    Raises:
        StudyError: an unknown name, or no network (the message says how to go on).
    """
    if name not in NAMES:
        raise unknown("checkpoint", name, NAMES)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"mdr-{name}.pth"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(AT.format(name), str(path))
        except (OSError, RuntimeError) as problem:
            raise StudyError(
                f"the checkpoint cannot be downloaded ({problem}): fetch {AT.format(name)} "
                "elsewhere, then give its path as --checkpoint"
            ) from None
    return path


def network(path: Path, config: Config) -> EmbeddingNet:
    """Return the released network, backbone and head, in eval mode.

    Raises:
        StudyError: the file cannot be read, or is not one of this network.
    """
    try:
        _, head = from_released(backbones.read_weights(path))
        backbone = backbones.backbone("bn_inception", str(path))
        net = EmbeddingNet(
            backbone, len(head["bias"]), config.normalization, config.freeze_batch_norm
        )
        net.linear.load_state_dict(head)
    except (ValueError, KeyError) as problem:
        raise StudyError(f"{path} is not a released MDR checkpoint: {problem}") from None
    return net.to(config.device).to(memory_format=torch.channels_last).eval()


def evaluate(
    name: str, path: Path, device: str = "cpu", data_root: str | None = None
) -> pd.DataFrame:
    """Return Recall@K in percent of a released checkpoint, by the paper's protocol.

    Returns:
        One row per K: ``raw`` embeddings, as the paper evaluates them, and ``L2``-normalized ones.
    """
    config = profiles.config("paper", name, "Triplet + MDR", device=device)
    images, net = RunStore(data_root=data_root).dataset(config), network(path, config)
    parts: list[torch.Tensor] = []
    for split in (images.test, images.gallery):
        if split is not None:
            parts += [epoch.embed_split(config, net, split), split.labels]
    (_, raw), (_, l2) = epoch.raw_and_l2(RetrievalSet(*parts))
    found = {
        column: retrieval.recall_at_k(*each[:2], config.ks, *each[2:])
        for column, each in {"raw": raw, "L2": l2}.items()
    }
    return pd.DataFrame(found).rename_axis("K").reset_index()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core released", description="Evaluate a released MDR checkpoint."
    )
    parser.add_argument("name", help=", ".join(NAMES))
    parser.add_argument("--checkpoint", type=Path, help="its file (default: downloaded)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data-root", help="where the dataset lies")
    given = parser.parse_args(argv)
    path = given.checkpoint or checkpoint(given.name)
    table = evaluate(given.name, path, given.device, given.data_root)
    print(table.to_string(index=False, float_format="{:.1f}".format))
    print(f"{path}, sha256 {sha256(path.read_bytes())}")
    return 0
