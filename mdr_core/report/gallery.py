"""What a model retrieves, image by image: hits of chosen queries, the hardest queries, the classes confused most."""

import numpy as np
import pandas as pd

from mdr_core.evaluation.retrieval import nearest


def first_right(embeddings: np.ndarray, labels: np.ndarray, depth: int = 100) -> np.ndarray:
    """(N,) the rank, from 1, at which each image finds one of its own class; depth + 1 where it does not by then."""
    depth = min(depth, len(labels) - 1)
    hits = labels[nearest(embeddings, depth)] == labels[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, depth + 1)


def confusions(
    embeddings: np.ndarray, labels: np.ndarray, names: tuple[str, ...], most: int = 8
) -> pd.DataFrame:
    """The pairs of classes confused most: how many queries of the one have their nearest image in the other.

    Returns:
        ``query class``, ``taken for``, ``queries``, ``share`` (in percent of the query class's images), most first.
    """
    found = labels[nearest(embeddings, 1)[:, 0]]
    wrong = found != labels
    table = (
        pd.DataFrame({"query": labels[wrong], "found": found[wrong]})
        .value_counts()
        .rename("queries")
        .reset_index()
    )
    table = table.sort_values(["queries", "query", "found"], ascending=[False, True, True]).head(
        most
    )
    total = np.bincount(labels)
    return pd.DataFrame(
        {
            "query class": [names[c] for c in table["query"]],
            "taken for": [names[c] for c in table["found"]],
            "queries": table.queries.to_list(),
            "share [%]": [
                f"{100 * n / total[c]:.0f}"
                for n, c in zip(table.queries, table["query"], strict=True)
            ],
        }
    )


def choose(ranks: dict[str, np.ndarray], count: int, seed: int = 0) -> np.ndarray:
    """Query images drawn at random, half of them among those on which the models disagree at rank 1.

    Args:
        ranks: method -> (N,) as :func:`first_right` gives them.
    """
    rng = np.random.default_rng(seed)
    right = np.stack([r == 1 for r in ranks.values()])
    disagree = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    some = rng.permutation(disagree)[: count // 2]
    rest = np.setdiff1d(rng.permutation(right.shape[1]), some, assume_unique=True)
    return np.concatenate([some, rng.permutation(rest)[: count - len(some)]])


def hardest(ranks: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The images whose first right neighbour comes latest, summed over the models; ties by index."""
    return np.argsort(-np.sum([np.log(r) for r in ranks.values()], axis=0), kind="stable")[:count]
