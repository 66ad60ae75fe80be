"""The study's ledger and sentences, recomputed from the committed runs."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mdr_core.files import REPOSITORY
from mdr_core.runs import committed
from mdr_core.statistics import Difference

WITHDRAWN = "- *The runs no longer say so"


def executed(reports, monkeypatch):
    """Return the names of the claims notebook, executed on the runs of a folder of reports."""
    nb = nbformat.read(REPOSITORY / "notebooks" / "claims.ipynb", 4)
    code, names = "\n\n".join(c.source for c in nb.cells if c.cell_type == "code"), {}
    monkeypatch.setattr(committed, "REPORTS", reports)
    monkeypatch.setenv("MDR_RUNS", str(REPOSITORY / "no runs of this machine"))
    exec(compile(code, "claims.ipynb", "exec"), names)
    return names


@pytest.fixture(scope="module")
def claims():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield executed(REPOSITORY / "reports", monkeypatch)


def rows_of_cub50(normalization, mdr_weight):
    """Return the last epoch of Table 1's runs on CUB-50, a row per seed, read by pandas alone."""
    rows = pd.read_csv(REPOSITORY / "reports" / "photos" / "runs.csv", low_memory=False)
    wanted = {"dataset": "cub50", "normalization": normalization, "mdr_weight": mdr_weight}
    wanted |= {"hold_out": 0, "epochs": 18, "dim": 256, "loss": "triplet", "lr": 1e-4}
    wanted |= {"weight_decay": 1e-5, "levels": "[-3.0,0.0,3.0]"}
    runs = rows.groupby("key").first()
    runs = runs[(runs[[f"config.{name}" for name in wanted]] == [*wanted.values()]).all(axis=1)]
    seeds = runs[runs["config.loop"] != "library"]["config.seed"].astype(int)
    ends = rows[rows.key.isin(seeds.index) & (rows.epoch == 18)]
    return ends.set_index(ends.key.map(seeds)).sort_index()


def test_every_sentence_fits_the_committed_runs(claims):
    assert len(claims["lines"]) == 5
    assert [line for line in claims["lines"] if line.startswith(WITHDRAWN)] == []


def test_sentences_on_a_lead_are_withdrawn_where_mdr_has_none(tmp_path, monkeypatch):
    for path in (REPOSITORY / "reports").glob("*/runs.csv"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        weight = rows.groupby("key")["config.mdr_weight"].transform("first").astype(float)
        worse = rows["test_recall@1"][weight > 0].astype(float) - 20
        rows.loc[weight > 0, "test_recall@1"] = worse.map(str)
        (tmp_path / path.parent.name).mkdir()
        rows.to_csv(tmp_path / path.parent.name / "runs.csv", index=False)
    withdrawn = [line.startswith(WITHDRAWN) for line in executed(tmp_path, monkeypatch)["lines"]]
    assert withdrawn == [True, True, True, True, False]  # of levels, both sides have MDR


def test_the_ledger_says_what_the_file_of_runs_says(claims):
    mdr, l2 = rows_of_cub50("mean_distance", 0.6), rows_of_cub50("l2", 0.0)
    gains = (mdr["test_recall@1"] - l2["test_recall@1"]).to_numpy()
    right = pd.concat([mdr.test_class_right, l2.test_class_right], axis=1).dropna().map(json.loads)
    g = np.mean(np.subtract(*map(list, right.to_numpy().T)), axis=0)
    q = np.array(json.loads(mdr.test_class_queries.dropna().iloc[0]))
    r, n, c = g - g.sum() / q.sum() * q, len(gains), len(q)
    seeds = gains.var(ddof=1) / n
    classes = 1e4 * c / (c - 1) * (r**2).sum() / q.sum() ** 2
    nu = (seeds + classes) ** 2 / (seeds**2 / (n - 1) + classes**2 / (c - 1))
    half = t.ppf(0.975, nu) * (seeds + classes) ** 0.5
    cell = (
        claims["ledger"]()
        .loc["MDR beats L2 normalization at the last epoch (Table 1)", "CUB-50"]
        .replace("−", "-")
    )
    told = [float(number) for number in re.findall(r"-?\d+\.\d", cell)]
    assert told == pytest.approx([gains.mean(), gains.mean() - half, gains.mean() + half], abs=0.1)
    ends = claims["recall"].loc["last epoch"]["cub50"]
    assert ends["Triplet + MDR"] == pytest.approx(mdr["test_recall@1"].mean(), abs=0.1)
    assert ends["seeds"] == str(len(mdr))


@pytest.mark.parametrize("verdicts, word", [
    (["holds", "holds"], "holds"), (["holds", "fails"], "fails"), (["holds", "equal"], "equal"),
    (["unclear", "equal"], "unclear"), (["not run", "fails"], "fails"),
    (["not run", "holds"], "not run"), (["one seed", "holds"], "one seed"),
])  # fmt: skip
def test_a_claim_about_all_settings_is_as_strong_as_its_weakest(claims, verdicts, word):
    points = [Difference(1.0, 0.5, 1.5, 0.01, 3, "seeds only")] * len(verdicts)
    rows = pd.DataFrame({"verdict": verdicts, "points": points, "digits": 1})
    assert claims["in_words"](rows).endswith(word)
