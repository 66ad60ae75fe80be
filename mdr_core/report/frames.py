"""The runs of a grid as a table with the grid's labels, which the reports read."""

from collections.abc import Sequence

import pandas as pd

from mdr_core.runs.local import Record, tensors
from mdr_core.runs.run import frame
from mdr_core.study import statistics

RECALLS = ("test_recall@1", "test_recall@1_l2", "train_recall@1", "held_out_recall@1")
DISTANCES = ("pair_mean", "pair_std", "running_mean", "running_std")
CENTERS = ("centres_between", "centres_within", "centres_ratio", "centres_evenness")
# what tables and figures read of a row, and so what a run that is not stored has as NaN
NUMBERS = (*RECALLS, "test_r_precision", "test_map_at_r", *DISTANCES, *CENTERS)


def labeled(grid: Sequence[dict], records: Sequence[Record | None]) -> pd.DataFrame:
    """Return :func:`mdr_core.runs.run.frame` with the labels of each grid's row as columns."""
    found = frame([row["config"] for row in grid], records)
    labels = pd.DataFrame(
        [{k: v for k, v in r.items() if k not in ("config", "own")} for r in grid]
    )
    if len(found):
        found[list(labels)] = labels.iloc[found.run].set_axis(found.index)
    return found.reindex(columns=list(dict.fromkeys([*found, *labels, *NUMBERS])))


def with_counts(found: pd.DataFrame, records: Sequence[Record | None]) -> pd.DataFrame:
    """Return the table with ``test_class_queries`` and ``test_class_right`` of the last epochs.

    They are lists of a number per class. Older records lack them: theirs come from the findings.
    """
    columns = ["test_class_queries", "test_class_right"]
    found = found.reindex(columns=list(dict.fromkeys([*found, *columns])))
    found[columns] = found[columns].astype(object)
    by_key = {record["key"]: record for record in records if record}
    last = statistics.final(found)  # a run that two labels name has two rows
    for place, key in last[last.test_class_right.isna()].key.items():
        stored = tensors(by_key[key], "findings") if key in by_key else None
        if stored is None:
            continue
        labels = stored["labels"].long()  # those runs' queries are their gallery
        right = labels[stored["nearest"][:, 0].long()] == labels
        found.at[place, "test_class_queries"] = labels.bincount().tolist()
        found.at[place, "test_class_right"] = labels.bincount(right.double()).int().tolist()
    return found
