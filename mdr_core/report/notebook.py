"""What every notebook does alike: check its parameters, run its grid, show and save results.

given = checked_parameters(globals())   # in the cell after the parameters
report = Report(given)
table = report.run(experiments.table1(given.profile, report.datasets, ...))
report.figure(plots.learning_curves(table), "learning_curves", "Caption: what it shows.")
"""

import ast
import contextlib
import dataclasses
import io
import re
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import PIL.Image
from IPython.display import Image, display
from matplotlib.figure import Figure

from mdr_core.config import Config, checked
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import NothingStored, StudyError, unknown
from mdr_core.files import REPOSITORY
from mdr_core.report import plots, tables
from mdr_core.runs import executors, grids
from mdr_core.runs.store import Record, RunStore
from mdr_core.study import class_bootstrap, profiles, reruns, statistics
from mdr_core.study.reruns import FINDING

MARK = "# Parameters."  # opens a notebook's parameters cell
INJECTED = "# Parameters\n"  # opens the cell that papermill adds
SETTINGS = {field.name for field in dataclasses.fields(Config)}
SCREEN, PRINT = 100, 180  # dots per inch of a figure of photographs, in a page and as a file


def checked_parameters(namespace: dict) -> SimpleNamespace:
    """Return the notebook's parameters, each of its default's type, and their ``defaults``.

    papermill itself only warns of a parameter that a notebook does not have. A list that its
    command line gives as text becomes a list.

    Args:
        namespace: the notebook's ``globals()``. It holds the values and, as ``In``, the source of
            the cells that were run; it stays as it is.

    Raises:
        StudyError: an unknown name, a value of another type, or no parameters cell was run.
    """
    cells = namespace["In"]
    own = max((i for i, cell in enumerate(cells) if cell.startswith(MARK)), default=None)
    if own is None:
        raise StudyError("run the parameters cell first")
    defaults = assigned(cells[own])
    for cell in cells[own + 1 :]:
        for node in ast.parse(cell).body if cell.startswith(INJECTED) else ():
            name = ast.unparse(node).split()[0].rstrip(":")  # values may be float('nan')
            if name not in defaults:
                raise unknown("parameter", name, defaults)
    values = {name: typed(name, default, namespace[name]) for name, default in defaults.items()}
    return SimpleNamespace(**values, defaults=defaults)


def assigned(source: str) -> dict[str, object]:
    """Return the names and literal values that a cell assigns: ``lr = 0.1``, ``lr: float = 1``."""
    found: dict[str, object] = {}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = ast.literal_eval(value)
            case ast.AnnAssign(
                target=ast.Name(id=name), annotation=kind, value=ast.expr() as value
            ):
                number = ast.literal_eval(value)
                found[name] = float(number) if ast.unparse(kind) == "float" else number
    return found


def typed(name: str, default: object, value: object) -> object:
    """Return the value as the default's type; a list's items have that of the default's first."""
    if default is None:  # of a switch
        return value if value is None else checked(name, bool, value)
    if not isinstance(default, list):
        return checked(name, type(default), value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if not isinstance(value, (list, tuple)):
        raise StudyError(f"{name} must be a list, got {value!r}")
    if default and not value:
        raise StudyError(f"{name} is empty: give at least one")
    if len(set(map(str, value))) < len(value):
        raise StudyError(f"{name} names something twice: {list(value)}")
    return [typed(f"each of {name}", default[0], item) if default else item for item in value]


def path_of(folder: str) -> Path:
    """Return a folder's path; a relative one lies in the study, wherever the notebook runs."""
    return REPOSITORY / Path(folder).expanduser()


class Report:
    """One notebook's run.

    Args:
        given: the checked parameters. ``profile``, ``output_root`` and ``data_root`` must be there.

    Attributes:
        profile, own, datasets: the profile, its name first; by default all of its datasets.
        seeds, few: those asked for; by default the profile's for Table 1, and for the ablations.
        changes: the parameters that are settings of a run and differ from the profile's own.
        records: the records of all runs so far, by key.
        first: the rows of the first grid, the headline, and their records.

    Raises:
        StudyError: an unknown profile or dataset, or epochs = 0.
    """

    def __init__(self, given: SimpleNamespace):
        self.given = values = vars(given)
        if values.get("epochs") == 0:
            raise StudyError("epochs is 0: give at least 1, or -1 for the profile's own number")
        self.profile, self.own = given.profile, profiles.named(given.profile)
        self.seeds = values.get("seeds") or list(range(self.own.seeds))
        self.few = values.get("seeds") or list(range(self.own.ablation_seeds))
        known, dataset = profiles.datasets(given.profile), values.get("dataset", "")
        self.datasets = [dataset] if dataset else known
        settings = SETTINGS - {"dataset"}
        self.changes = {k: v for k, v in values.items() if k in settings and v not in (-1, "")}
        data_root = path_of(given.data_root) if given.data_root else None
        self.store = RunStore(path_of(given.output_root), data_root)
        self.save_root = path_of(given.save_root) if values.get("save_root") else None
        scheduler, processes = values.get("scheduler"), values.get("processes", 1)
        self.where = {
            "jobs": values.get("jobs") or None,
            "processes": processes,
            "executor": executors.cluster(scheduler) if scheduler else None,
            "train": self.own.trains if values.get("train") is None else given.train,
        }
        if "weights" in self.changes and (file := path_of(given.weights)).is_file():
            self.changes["weights"] = str(file)
        if dataset and dataset not in known:  # a batch that it can fill
            config = profiles.config(given.profile, dataset, profiles.METHODS[0], **self.changes)
            self.changes["batch_size"] = self.store.batch_size(config, processes)
        self.records: dict[str, Record] = {}
        self.first: tuple[list[dict], list[Record | None]] = [], []

    def run(self, grid: list[dict], optional: bool = False, compared: str = "") -> pd.DataFrame:
        """Return the grid's runs, trained or stored: a row per run and epoch, labels as columns.

        Args:
            optional: further grids follow, which may have a stored run.
            compared: the label of which two values at least must be stored.
        """
        labels = [{k: v for k, v in row.items() if k not in ("config", "own")} for row in grid]
        records = self.records_of(grid, optional)
        frame = grids.frame([row["config"] for row in grid], records, labels)
        asked = len({row[compared] for row in grid}) if compared else 0
        if asked > 1 and statistics.ran(frame)[compared].nunique() < 2:
            raise NothingStored(f"fewer than two of {asked} settings ({compared}) are stored")
        return frame

    def records_of(self, grid: list[dict], optional: bool = False) -> list[Record | None]:
        """Return the grid's records; None for a run that is not stored, where none is trained.

        Args:
            optional: further grids follow, which may have a stored run.

        Raises:
            StudyError: neither this grid nor one before it has a stored run.
        """
        found = grids.records([row["config"] for row in grid], self.store, **self.where)
        self.records |= {record["key"]: record for record in found if record is not None}
        self.first = self.first if self.first[0] else (grid, found)
        if grid and not (self.records or optional):
            raise NothingStored(
                f"no run of this report is stored in {self.store.root}: train=True trains them"
            )
        return found

    def run_with_counts(self, grid: list[dict], optional: bool = False) -> pd.DataFrame:
        """Return :meth:`run` with the right answers by class, of older runs from their findings."""
        frame = self.run(grid, optional)

        def findings(key: str) -> dict | None:
            return self.store.findings(self.records[key]) if key in self.records else None

        return class_bootstrap.with_counts(frame, findings)

    def with_weights(self, config: Config) -> Record | None:
        """Return a run's record with weights and embeddings, trained again if they are absent."""
        [found] = grids.records([config], self.store, files=True, **self.where)
        return found

    def findings(self, grid: list[dict]) -> list[dict]:
        """Return the grid's rows whose findings are stored, each with them.

        ``findings`` is what :func:`mdr_core.evaluation.epoch.findings` gave.
        """
        found = []
        for row, record in zip(grid, self.records_of(grid), strict=True):
            findings = self.store.findings(record) if record is not None else None
            found += [row | {"findings": findings}] if findings is not None else []
        return found

    def images(self, dataset: str, image_size: int) -> RetrievalDataset:
        """Return a dataset as the runs saw it."""
        return self.store.dataset(Config(dataset=dataset, image_size=image_size))

    def finding(self, sentence: str, headline: str = "") -> None:
        """Tell the report's finding; it opens the page and stands in the index, headline first.

        A notebook that is run under other parameters shows below it what these change.
        """
        carried, shown = reruns.of(*self.first, self.given, self.store)
        found = {"finding": sentence, "figure": headline, "rerun": carried}
        display({FINDING: found, "text/plain": sentence}, raw=True)
        if shown:
            self.note("## What this rerun changes")
        for name, (table, caption) in shown.items():
            self.table(table, name, caption)

    def note(self, text: str) -> None:
        """Show a sentence (Markdown) that depends on the run."""
        display({"text/markdown": text, "text/plain": text}, raw=True)

    def table(self, table: pd.DataFrame, name: str, caption: str, **options) -> None:
        """Show a table and save it as CSV; options are those of :func:`tables.styled`."""
        self.save(table, name)
        display(tables.styled(table, caption, **options))

    def save(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV, where a folder is given."""
        if path := self.path(f"{name}.csv"):
            tables.save(table, path)

    def figure(self, figure: Figure, name: str, caption: str, photographs: bool = False) -> None:
        """Show a figure with its caption and save it as SVG; one of ``photographs`` as PDF."""
        # on a phone it scrolls, at three quarters of its size
        about = {"alt": caption, "least": f"{54 * figure.get_figwidth():.0f}pt"}
        path = self.path(f"{name}.{'pdf' if photographs else 'svg'}")
        if photographs:
            image = Image(plots.jpeg(figure, SCREEN), format="jpeg")
            display(image, metadata={"image/jpeg": about})
            if path:
                began = time.gmtime(0)  # the same file for the same figure
                printed = PIL.Image.open(io.BytesIO(plots.jpeg(figure, PRINT)))
                printed.save(path, resolution=PRINT, creationDate=began, modDate=began)
        else:
            text = plots.svg(figure, name)
            display({"image/svg+xml": text}, raw=True, metadata={"image/svg+xml": about})
            if path:
                path.write_text(text, encoding="utf-8")
        plt.close(figure)
        self.note(f'<p class="caption">{caption}</p>')

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
        rows = []
        for record in self.records.values():
            about, config = record["provenance"], record["config"]
            row = {
                "finished": about["finished"][:10],
                "number version": about.get("numbers"),
                "code": about["code"][:12],
                "commit": (about.get("commit") or "not recorded")[:12],
                "data": f"{config['dataset']} {about['data'][:12]}",
                "device": about["device"],
                "threads": about["threads"],
                "seed": config["seed"],
            }
            rows.append(row | about["versions"])
        found = pd.DataFrame(rows)
        dates = found.pop("finished")
        shown = {"runs": f"{len(found)}, trained {dates.min()} to {dates.max()}"}
        for column in found:
            shown[column] = ", ".join(sorted(map(str, found[column].dropna().unique())))
        table = pd.DataFrame({"what": shown.keys(), "the runs behind this report": shown.values()})
        caption = (
            "Each run is stored with its configuration, seed, library versions, device, the "
            "fingerprint of its data (sha256 of the image files, labels, classes and split) and "
            "its code: the git commit, and the sha256 of the text of every file that can change "
            "its numbers. Texts of one number version gave the same numbers in short trainings; "
            "code_versions.csv says on which machines that was checked."
        )
        display(tables.styled(table, caption))
