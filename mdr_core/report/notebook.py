"""What every notebook does alike: check its parameters, run its grid, show and save results."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import NothingStored, StudyError
from mdr_core.report import absent, frames, reruns, tables
from mdr_core.report.pages import facts, panels
from mdr_core.report.pages.html_table import plain, unbroken
from mdr_core.report.parameters import checked_parameters as checked_parameters
from mdr_core.report.parameters import path_of
from mdr_core.report.reruns import SETTINGS
from mdr_core.runs import local
from mdr_core.runs.local import Record, tensors
from mdr_core.study import claims, data_facts, experiments, profiles, statistics, train

FINDING = "application/vnd.mdr.finding+json"
FACTS = "application/vnd.mdr.facts+json"


class Report:
    """One notebook's run.

    Args:
        given: the checked parameters, ``profile`` among them.

    Attributes:
        profile, own, datasets: the profile, its name first; by default all of its datasets.
        seeds, few: those asked for; by default the profile's for Table 1, and for the ablations.
        changes: the parameters that are settings of a run and differ from the profile's own.
        records: the records of all runs so far, by key.
        first: the rows of the first grid, the headline, and their records.

    Raises:
        StudyError: an unknown profile or dataset.
    """

    def __init__(self, given: SimpleNamespace):
        self.given = values = vars(given)
        self.profile, self.own = given.profile, profiles.named(given.profile)
        self.seeds = values.get("seeds") or list(range(self.own.seeds))
        self.few = values.get("seeds") or list(range(self.own.ablation_seeds))
        known, dataset = profiles.datasets(given.profile), values.get("dataset", "")
        self.datasets = [dataset] if dataset else known
        self.changes = {k: v for k, v in values.items() if k in SETTINGS and v not in (-1, "")}
        self.save_root = path_of(given.save_root) if values.get("save_root") else None
        self.choice = profiles.choice(given.profile, values.get("train"))
        if "weights" in self.changes and (file := path_of(given.weights)).is_file():
            self.changes["weights"] = str(file)
        if dataset and dataset not in known:  # a batch that it can fill
            config = profiles.config(given.profile, dataset, profiles.METHODS[0], **self.changes)
            self.changes["batch_size"] = experiments.fillable(config)
        self.records: dict[str, Record] = {}
        self.first: tuple[list[dict], list[Record | None]] = [], []
        self.answer: dict = {}  # a finding not yet shown

    def run(self, grid: list[dict], optional: bool = False, compared: str = "") -> pd.DataFrame:
        """Return the grid's runs, trained or stored: a row per run and epoch, labels as columns.

        Args:
            optional: further grids follow, which may have a stored run.
            compared: the label of which two values at least must be stored.
        """
        frame = frames.labeled(grid, self.records_of(grid, optional))
        asked = len({row[compared] for row in grid}) if compared else 0
        if asked > 1 and statistics.ran(frame)[compared].nunique() < 2:
            raise NothingStored(f"fewer than two of {asked} settings ({compared}) are stored")
        return frame

    def records_of(self, grid: list[dict], optional: bool = False) -> list[Record | None]:
        """Return the grid's records; None for a run that is not stored, where none is trained.

        Raises:
            NothingStored: neither this grid nor one before it has a stored run.
        """
        found = train.by_loop([row["config"] for row in grid], **self.choice)
        self.records |= {record["key"]: record for record in found if record is not None}
        self.first = self.first if self.first[0] else (grid, found)
        if grid and not (self.records or optional):
            raise NothingStored("no run of this report is stored: train=True trains them")
        return found

    def run_with_counts(
        self, grid: list[dict], optional: bool = False, compared: str = ""
    ) -> pd.DataFrame:
        """Return :meth:`run` with the right answers by class, of older runs from their findings."""
        return frames.with_counts(self.run(grid, optional, compared), list(self.records.values()))

    def with_weights(self, config: Config) -> Record | None:
        """Return a run's record with weights and embeddings, trained again if they are absent."""
        if self.choice["missing_too"]:
            return local.train(config)
        return local.find(config, local.dataset(config).fingerprint)

    def findings(self, grid: list[dict]) -> list[dict]:
        """Return the grid's rows whose :func:`~mdr_core.evaluation.epoch.findings` are stored."""
        stored = [tensors(r, "findings") if r else None for r in self.records_of(grid)]
        return [
            row | {"findings": findings}
            for row, findings in zip(grid, stored, strict=True)
            if findings is not None
        ]

    def images(self, dataset: str, image_size: int) -> RetrievalDataset:
        """Return a dataset as the runs saw it; where it is not here, with gray images."""
        try:
            return local.dataset(Config(dataset=dataset, image_size=image_size))
        except StudyError:
            runs = (r for r in self.records.values() if r["config"]["dataset"] == dataset)
            known = next((r for r in runs if "findings" in r["files"]), None)
            about = known and data_facts.about(dataset, known["provenance"]["data"])
            if not (known and about):
                raise
            return absent.dataset(dataset, about, tensors(known, "findings") or {})

    def about(self, record: Record) -> dict[str, Any]:
        """Return :func:`mdr_core.study.data_facts.facts_of` of the data that a run saw."""
        config = Config(**record["config"])
        found = data_facts.about(config.dataset, record["provenance"]["data"])
        return found or data_facts.facts_of(local.dataset(config))

    def finding(
        self, sentence: str, headline: str = "", results: Sequence[claims.Result] = ()
    ) -> None:
        """Tell the report's finding, shown in bold under the next table, and on top of the page.

        The index shows the verdicts of the claims' ``results`` and the headline.
        """
        self.answer = {
            "finding": unbroken(sentence),
            "figure": unbroken(headline),
            "verdicts": tables.verdicts(results),
        }

    def note(self, text: str, **names: str) -> None:
        """Show a sentence (Markdown) that depends on the run; ``{dataset}`` in it is a name."""
        text = unbroken(text)
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", plain(value))
        display({"text/markdown": text, "text/plain": text}, raw=True)

    def table(self, table: pd.DataFrame, name: str, caption: str, **options) -> None:
        """Show a table and save it as CSV; options are those of :func:`tables.styled`."""
        self.save(table, name)
        shown = tables.styled(table, caption, **options)
        self.show(shown.data, caption, [self.path(f"{name}.csv")])

    def show(self, html: str, text: str, files: Iterable[Path | None] = (), **more) -> None:
        """Show HTML, or the text, with links to its files; then a finding not yet shown.

        Below the finding it shows what the notebook's parameters change. ``more``: other types.
        """
        about = {"text/html": {"files": [path.name for path in files if path]}}
        display({"text/html": html, "text/plain": text} | more, raw=True, metadata=about)
        if self.answer:
            told = self.answer["finding"]
            changed = reruns.changes(self.first[0], self.given)
            carried = {"profile": self.profile, "changes": changed}
            carried["results"] = reruns.results(*self.first)
            shown = {"text/markdown": f"**{plain(told)}**", "text/plain": told}
            shown |= {FINDING: self.answer | {"finding": plain(told)}, reruns.CARRIED: carried}
            display(shown, raw=True)
            self.answer = {}
            if changed:
                self.note("## What this rerun changes")
                caption = "The parameters that differ from the profile's own."
                self.table(pd.DataFrame(changed), "rerun_changes", caption)

    def save(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV, where a folder is given."""
        if path := self.path(f"{name}.csv"):
            tables.save(table, path)

    def figure(
        self, figures: Figure | Sequence[Figure], name: str, caption: str, photographs: bool = False
    ) -> None:
        """Show a figure with its caption and save it as SVG; one of ``photographs`` as PDF.

        Several are its panels, saved as ``name-1``, ``name-2``, ...: side by side on a wide page,
        stacked on a phone.
        """
        each = [figures] if isinstance(figures, Figure) else list(figures)
        shown, files = [], []
        for number, figure in enumerate(each, 1):
            own = f"{name}-{number}" if len(each) > 1 else name
            path = self.path(f"{own}.{'pdf' if photographs else 'svg'}")
            files.append(path)
            shown.append(panels.panel(figure, own, caption, path, photographs))
            plt.close(figure)
        self.show(panels.of(shown, caption), caption, files)

    def path(self, name: str) -> Path | None:
        """Return where a file is saved, as ``recall_at_k-quick.csv``; None without a folder."""
        if self.save_root is None:
            return None
        self.save_root.mkdir(parents=True, exist_ok=True)
        stem, _, ending = name.rpartition(".")
        safe = re.sub(r"[^\w.-]+", "_", f"{stem}-{self.profile}")  # a dataset folder:a/b
        return self.save_root / f"{safe}.{ending}"

    def provenance(self) -> None:
        """Show what the runs behind this report share, and how many they are."""
        found = facts.facts(self.records.values(), self.about)
        rows = [*found, *facts.versions(self.records.values())]
        table = pd.DataFrame(rows, columns=["what", "value"])
        caption = (
            "The runs behind this report. Data is a dataset's fingerprint: sha256 of the image "
            "files, labels, classes and split. Code is the sha256 of the text of every file that "
            "can change numbers."
        )
        shown = tables.styled(table, caption).data
        self.show(shown, caption, [Path("runs.csv")], **{FACTS: found})
