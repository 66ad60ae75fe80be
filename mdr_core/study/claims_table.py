"""The numbers behind each claim of the paper, from the same stored runs that the notebooks show."""

import time

import numpy as np
import torch

from mdr_core import search
from mdr_core.config import from_dict
from mdr_core.runs import store
from mdr_core.study import experiments, gradient_by_difficulty, statistics
from mdr_core.study.claims import Claim, by_cell
from mdr_core.study.experiments import LEVELS, LOSSES, STANDARD, WITH, WITHOUT
from mdr_core.study.profiles import METHODS

TRIPLET, L2, MDR = METHODS
GROUPS, TURNS = 30, 8  # of the timing at inference: the fastest of so many turns, so often
FREE = 2.0  # percent of the time that still counts as no cost


def collect(report, ablation_seeds: list[int]) -> list[Claim]:
    """Every claim, measured under a notebook's parameters (a :class:`mdr_core.report.notebook.Report`)."""
    return (
        table1_claims(report) + ablation_claims(report, ablation_seeds) + mechanism_claims(report)
    )


def table1_claims(report) -> list[Claim]:
    """Recall@1 and overfitting, on every dataset of the profile."""
    grid = experiments.table1(
        report.profile, report.datasets, list(METHODS), report.seeds, **report.changes
    )
    frame = report.run(grid, optional=True)
    last = statistics.final(frame)
    last["gap"] = last["train_recall@1"] - last["test_recall@1"]
    last["lost"] = statistics.past_best(frame)
    return [
        Claim(
            "MDR improves the triplet loss",
            "Recall@1, MDR less Triplet",
            "recall_at_k",
            by_cell(last, "dataset", MDR, TRIPLET),
        ),
        Claim(
            "MDR beats L2 normalization",
            "Recall@1, MDR less L2",
            "recall_at_k",
            by_cell(last, "dataset", MDR, L2),
        ),
        Claim(
            "MDR overfits less than L2 normalization",
            "gap between training and test Recall@1, L2's less MDR's",
            "learning_curves",
            by_cell(last, "dataset", MDR, L2, "gap", sign=-1),
        ),
        Claim(
            "MDR loses less than L2 normalization after its best epoch",
            "test Recall@1 lost from the best epoch to the last, L2's less MDR's",
            "learning_curves",
            by_cell(last, "dataset", MDR, L2, "lost", sign=-1),
        ),
    ]


def ablation_claims(report, seeds: list[int]) -> list[Claim]:
    """Table 2 and Figure 4 (a)."""
    profile, changes = report.profile, report.changes

    def last(grid):
        return statistics.final(report.run(grid, optional=True))

    backbones = last(experiments.table2a(profile, experiments.BACKBONES[profile], seeds, **changes))
    losses = last(experiments.table2b(profile, LOSSES, seeds, **changes))
    levels = last(experiments.table2c(profile, list(LEVELS), [], seeds, **changes))
    sizes = last(
        experiments.figure4a(
            profile, experiments.DIMENSIONS[profile], list(METHODS), seeds, **changes
        )
    )

    def standard_less(other):
        return {
            "": statistics.paired_difference(levels, statistics.RECALL, "setting", STANDARD, other)
        }

    return [
        Claim(
            "MDR helps with any backbone",
            "gain in Recall@1",
            "ablation_backbones",
            by_cell(backbones, "backbone", WITH, WITHOUT),
        ),
        Claim(
            "MDR helps any distance-based loss",
            "gain in Recall@1",
            "ablation_losses",
            by_cell(losses, "loss_name", WITH, WITHOUT),
        ),
        Claim(
            "MDR improves the triplet loss at every dimension",
            "Recall@1, MDR less Triplet",
            "embedding_dimension",
            by_cell(sizes, "dimension", MDR, TRIPLET),
        ),
        Claim(
            "MDR beats L2 normalization at every dimension",
            "Recall@1, MDR less L2",
            "embedding_dimension",
            by_cell(sizes, "dimension", MDR, L2),
        ),
        Claim(
            "Three learnt levels are better than one",
            "Recall@1, three learnt less one learnt",
            "ablation_levels",
            standard_less("1 level (0)"),
        ),
        Claim(
            "Learnt levels are better than fixed ones",
            "Recall@1, three learnt less three fixed",
            "ablation_levels",
            standard_less("fixed (−3, 0, 3)"),
        ),
    ]


def mechanism_claims(report) -> list[Claim]:
    """Class centres, the gradient, and the cost at inference."""
    grid = experiments.table1(
        report.profile, report.datasets, list(METHODS), report.seeds, **report.changes
    )
    last = gradient_by_difficulty.shares(statistics.final(report.run(grid)))
    last["evenness"], last["ratio"] = 100 * last.centres_evenness, 100 * last.centres_ratio

    def against_both(value):
        return {
            f"{d}, against {m}": cell
            for m in (TRIPLET, L2)
            for d, cell in by_cell(last, "dataset", MDR, m, value).items()
        }

    return [
        Claim(
            "MDR spreads class centres more evenly",
            "a centre's nearest other one over the mean centre distance, MDR less the other",
            "class_centers",
            against_both("evenness"),
            unit="hundredths",
        ),
        Claim(
            "MDR sets classes further apart",
            "distance between centres over distance within classes, MDR less the other",
            "class_centers",
            against_both("ratio"),
            unit="hundredths",
        ),
        Claim(
            "With MDR, easy pairs keep contributing",
            "gradient from the easier half of the pairs, MDR less Triplet",
            "mechanism",
            by_cell(last, "dataset", MDR, TRIPLET, "easy"),
            unit="% of the gradient",
        ),
        Claim(
            "With MDR, hard pairs do not dominate",
            "gradient from the hardest tenth of the pairs, Triplet less MDR",
            "mechanism",
            by_cell(last, "dataset", MDR, TRIPLET, "hardest", sign=-1),
            unit="% of the gradient",
        ),
        Claim(
            f"MDR costs nothing at inference (less than {FREE:g} %)",
            "time to embed, saved by MDR against Triplet",
            "claims",
            {"": time_saved(report)},
            unit="%",
            tolerance=FREE,
        ),
    ]


def time_saved(report) -> dict[str, float]:
    """How much less time the network of an MDR run takes to embed a batch than a triplet run's, in percent.

    They take turns on one thread; of each group of turns the fastest counts, which other work on the machine disturbs least.

    Returns:
        As :func:`mdr_core.study.statistics.interval`, over the groups of turns; of none where one of the two runs is not stored with its weights.
    """
    compared = experiments.table1(
        report.profile, report.datasets[:1], [TRIPLET, MDR], report.seeds[:1], **report.changes
    )
    first = {
        row["method"]: record
        for row, record in zip(compared, report.records_of(compared), strict=True)
    }
    if None in first.values():
        return statistics.interval([])
    networks = {}
    for method in (TRIPLET, MDR):
        weights = {
            k: v
            for k, v in store.load_weights(first[method], report.output_root).items()
            if not k.startswith("mdr.")
        }
        networks[method] = search.trained_network(from_dict(first[method]["config"]), weights)
    crop = first[MDR]["config"]["crop"]
    images = torch.randint(
        0, 256, (32, 3, crop, crop), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    times = {method: np.zeros((GROUPS + 1, TURNS)) for method in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for place in np.ndindex(GROUPS + 1, TURNS):
            for method, network in networks.items():
                began = time.perf_counter()
                network(images)
                times[method][place] = time.perf_counter() - began
    torch.set_num_threads(threads)
    fastest = {method: t[1:].min(axis=1) for method, t in times.items()}  # the first group warms up
    return statistics.interval(
        100 * (fastest[TRIPLET] - fastest[MDR]) / np.median(fastest[TRIPLET])
    )
