"""What every notebook does alike: check its parameters, run its grid, show and save what came out, say where it is from.

    report = Report(In, globals())          # in the cell after the parameters
    table = report.run(experiments.table1(report.profile, report.datasets, methods, seeds, **report.changes))
    report.figure(plots.learning_curves(table), "learning_curves", "Caption that states what the figure shows.")

A parameter that the notebook does not have, or a value of the wrong type, is refused: papermill itself only warns.
"""

import ast
import dataclasses
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from mdr_core.config import Config, checked
from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY
from mdr_core.report import plots, tables
from mdr_core.runs import executors, grids
from mdr_core.runs.store import Record, RunStore
from mdr_core.study import profiles, statistics

warnings.filterwarnings(
    "ignore", message="IProgress not found"
)  # a library asks for widgets that no report could keep

NUMBER = r"(not run|[+-]?[\d.]+|nan)?( ± [\d.]+)?( \(n = \d+\))?"  # a cell that is set flush right
MARK = "# Parameters."  # how a notebook's parameters cell begins; papermill's own begins with "# Parameters" alone
FINDING = "application/vnd.mdr.finding+json"
SETTINGS = {field.name for field in dataclasses.fields(Config)}


def assigned(source: str) -> dict[str, object]:
    """Names and literal values of a cell's assignments."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


def checked_parameters(inputs: list[str], namespace: dict) -> dict[str, object]:
    """The notebook's parameters and their values.

    Args:
        inputs: the cells that were run (IPython's ``In``).
        namespace: where their values are now.

    Raises:
        StudyError: a name that the notebook does not have, or a value of another type than its default's.
    """
    own = max((i for i, cell in enumerate(inputs) if cell.startswith(MARK)), default=None)
    if own is None:
        raise StudyError("run the parameters cell first")
    defaults = assigned(inputs[own])
    for cell in inputs[own + 1 :]:
        if cell.startswith("# Parameters\n"):
            for name in assigned(cell):
                if name not in defaults:
                    raise unknown("parameter", name, defaults)
    return {name: typed(name, default, namespace[name]) for name, default in defaults.items()}


def typed(name: str, default: object, value: object) -> object:
    """``value`` as the default's type; the items of a list as the type of the default's first, if it has one."""
    if isinstance(default, list):
        if isinstance(value, str):  # papermill's -p passes a list as text
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                pass
        if not isinstance(value, (list, tuple)):
            raise StudyError(f"{name} must be a list, got {value!r}")
        if default and not value:
            raise StudyError(f"{name} is empty: give at least one")
        if len(set(map(str, value))) < len(value):
            raise StudyError(f"{name} names something twice: {list(value)}")
        return [typed(f"each of {name}", default[0], v) for v in value] if default else list(value)
    return checked(name, type(default), value)


def path_of(folder: str) -> Path:
    """A folder; a relative one lies in the study, wherever the notebook runs."""
    return REPOSITORY / Path(folder).expanduser()


def saved_name(name: str, profile: str) -> str:
    """A file's name without its ending: ``recall_at_k-quick``; of a dataset like folder:a/b no sign that a path would need."""
    return re.sub(r"[^\w.-]+", "_", f"{name}-{profile}")


class Report:
    """One notebook's run.

    Attributes:
        profile, datasets, seeds: what the notebook is asked for; ``datasets`` are all of the profile's by default.
        changes: the parameters that are settings of a run and differ from the profile's own.
    """

    def __init__(self, inputs: list[str], namespace: dict):
        values = checked_parameters(inputs, namespace)
        namespace.update(values)  # a list that came as text is a list from here on
        self.profile, self.seeds = values["profile"], values.get("seeds", [0])
        known = profiles.datasets(self.profile)
        dataset = values.get("dataset", "")
        if values.get("epochs", -1) == 0:
            raise StudyError(
                "epochs is 0: a report needs at least one; -1 stands for the profile's own number"
            )
        self.datasets = [dataset] if dataset else known
        self.changes = {
            k: v for k, v in values.items() if k in SETTINGS - {"dataset"} and v not in (-1, "")
        }
        self.output_root = path_of(values["output_root"])
        self.data_root = str(path_of(values["data_root"])) if values["data_root"] else None
        self.store = RunStore(self.output_root, self.data_root)
        if "weights" in self.changes and (file := path_of(values["weights"])).is_file():
            self.changes["weights"] = str(file)
        scheduler = values.get("scheduler")
        self.where = {
            "jobs": values.get("jobs") or None,
            "processes": values.get("processes", 1),
            "executor": executors.cluster(scheduler) if scheduler else None,
            "train": values.get("train", True),
        }
        if dataset and dataset not in known:  # a batch that it can fill
            config = profiles.config(self.profile, dataset, profiles.METHODS[0], **self.changes)
            self.changes["batch_size"] = self.store.batch_size(config, self.where["processes"])
        self.save_root = path_of(values["save_root"]) if values.get("save_root") else None
        self.records: dict[str, Record] = {}

    def run(self, grid: list[dict], optional: bool = False) -> pd.DataFrame:
        """The grid's runs, trained or stored: a row per run and epoch, with the grid's labels as columns. ``optional`` as below."""
        labels = [{k: v for k, v in row.items() if k != "config"} for row in grid]
        return grids.frame(
            [row["config"] for row in grid],
            self.records_of(grid, files=False, optional=optional),
            labels,
        )

    def records_of(
        self, grid: list[dict], files: bool = True, optional: bool = False
    ) -> list[Record | None]:
        """The grid's records, with weights and embeddings if ``files``; None for a run that is not stored, where none is trained.

        Raises:
            StudyError: neither this grid nor one before it has a stored run. ``optional``: further grids follow, which may have one.
        """
        found = grids.records(
            [row["config"] for row in grid], self.store, files=files, **self.where
        )
        self.records |= {record["key"]: record for record in found if record is not None}
        if grid and not (self.records or optional):
            with_files = " with its embeddings" if files else ""
            raise StudyError(
                f"no run of this report is stored{with_files} in {self.output_root}: train=True trains them"
            )
        return found

    def embeddings(self, grid: list[dict]) -> list[dict]:
        """The grid's rows, each with ``test`` (N, D) and ``labels`` (N,), numpy, of its final embeddings; those that are not stored are left out."""
        found = [
            (row, record)
            for row, record in zip(grid, self.records_of(grid), strict=True)
            if record is not None
        ]
        stored = [(row, self.store.embeddings(record)) for row, record in found]
        return [
            row | {"test": e["test"].numpy(), "labels": e["test_labels"].numpy()}
            for row, e in stored
        ]

    def images(self, dataset: str, image_size: int):
        """A dataset as the runs saw it."""
        return self.store.dataset(Config(dataset=dataset, image_size=image_size))

    def finding(self, sentence: str, figure: str = "") -> None:
        """The report's one-sentence finding and its headline figure; they open the page and stand in the index."""
        display(
            {FINDING: {"finding": sentence, "figure": figure}, "text/plain": sentence}, raw=True
        )

    def table(
        self, texts: pd.DataFrame, name: str, caption: str, best: pd.DataFrame | None = None
    ) -> None:
        """Show a table and save it as CSV; cells where ``best`` is true are bold; rows that are undecided or not run are greyed."""
        tables.save(texts, self.save_root, saved_name(name, self.profile))
        style = texts.style.set_caption(caption)
        if best is not None:
            style = style.apply(
                lambda _: best.map(lambda b: "font-weight: bold" if b else ""), axis=None
            )
        words = [
            i for i, c in enumerate(texts) if not texts[c].astype(str).str.fullmatch(NUMBER).all()
        ]
        left = [{"selector": f".col{i}", "props": "text-align: left"} for i in words]
        short = [i for i, c in enumerate(texts) if texts[c].astype(str).str.len().max() < 20]
        nowrap = [{"selector": f"td.col{i}", "props": "white-space: nowrap"} for i in short]
        style = style.set_table_styles(left + nowrap)
        open_rows = texts.isin([tables.UNDECIDED, statistics.NOT_RUN]).any(axis=1)
        style = style.apply(
            lambda row: ["color: #6b7280" if open_rows[row.name] else ""] * len(row), axis=1
        )
        if any(
            texts[c].astype(str).str.len().max() > 40 for c in texts
        ):  # sentences wrap, figures do not
            style = style.set_table_attributes('class="claims"')
        if "evidence" in texts:  # the report beside this one
            style = style.format({"evidence": '<a href="{0}.html">{0}</a>'.format})
        if "verdict" in texts:  # a sign and a colour where the style sheet knows the word
            style = style.set_td_classes(
                texts[["verdict"]].map(lambda word: word.replace(" ", "-"))
            )
        if isinstance(texts.index, pd.RangeIndex):
            style = style.hide(axis="index")
        display(style)

    def note(self, text: str) -> None:
        """A sentence (Markdown) that depends on the run."""
        display({"text/markdown": text, "text/plain": text}, raw=True)

    def figure(self, figure: Figure, name: str, caption: str, bitmap: bool = False) -> None:
        """Show a figure with its caption and save it as SVG. ``bitmap``: as JPEG and PDF, for a figure made of photographs."""
        saved = saved_name(name, self.profile)
        about = {
            "alt": caption,
            "least": f"{54 * figure.get_figwidth():.0f}pt",
        }  # on a phone it scrolls, at three quarters of its size
        if bitmap:
            image = plots.bitmap(figure)
            plots.save_bitmap(image, self.save_root, saved)
            display(Image(plots.jpeg(image), format="jpeg"), metadata={"image/jpeg": about})
        else:
            text = plots.svg(figure, saved)
            plots.save(text, self.save_root, saved)
            display({"image/svg+xml": text}, raw=True, metadata={"image/svg+xml": about})
        plt.close(figure)
        display(
            {"text/markdown": f'<p class="caption">{caption}</p>', "text/plain": caption}, raw=True
        )

    def provenance(self) -> None:
        """What the runs behind this report share, and how many there are; each run's own values are in the run store."""
        rows = [
            {
                "runs": key,
                "number version": p.get("numbers"),
                "code": p["code"][:12],
                "commit": (p.get("commit") or "not recorded")[:12],
                "data": f"{r['config']['dataset']} {p['data'][:12]}",
                "device": p["device"],
                "threads": p["threads"],
                "finished": p["finished"][:10],
                "seed": r["config"]["seed"],
            }
            | p["versions"]
            for key, r in self.records.items()
            for p in [r["provenance"]]
        ]
        about = pd.DataFrame(rows)
        shown = {"runs": f"{len(about)}, trained {about.finished.min()} to {about.finished.max()}"}
        for column in about.columns.drop(["runs", "finished"]):
            shown[column] = ", ".join(sorted(map(str, about[column].dropna().unique())))
        table = pd.DataFrame({"what": shown.keys(), "the runs behind this report": shown.values()})
        display(
            table.style.hide(axis="index")
            .set_table_attributes('class="claims"')
            .set_caption(
                "Each run is stored with its configuration, seed, library versions, device, the fingerprint of its data (sha256 of the image files, "
                "labels, classes and split) and its code: the git commit, and the sha256 of the text of every file that can change its numbers. Texts of one "
                "number version gave the same numbers in short trainings; code_versions.csv says on which machines that was checked."
            )
        )
