"""One display of the whole while reports are made: what is stored, what is trained, how far it is."""

import sys

from joblib import cpu_count
from tqdm import tqdm

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.report.notebook import SETTINGS, path_of
from mdr_core.runs import executors, grids, plan
from mdr_core.study import experiments

MACHINE = (
    "profile",
    "data_root",
    "output_root",
    "save_root",
    "jobs",
    "processes",
    "scheduler",
)  # parameters that change no page
SECONDS_A_REPORT = 5.0  # to run and render a notebook whose runs are stored, about


class Progress:
    """One display of the whole: the runs that the notebooks ask for are trained together, before the notebooks read them.

    What a notebook asks for is known where no other parameters are given than seeds, settings of a run and the machine's; under
    others each notebook trains its own.
    """

    def __init__(self, notebooks: list[str], parameters: dict):
        settings = {
            k: v
            for k, v in parameters.items()
            if k not in (*MACHINE, "seeds", "train") and v not in (-1, "")
        }
        known = (
            not settings.keys() - SETTINGS
            and not settings.keys() & {"dataset", "weights"}
            and isinstance(parameters.get("seeds", []), list)
        )
        asked = (
            experiments.of_notebooks(parameters["profile"], parameters.get("seeds"), **settings)
            if known
            else {}
        )
        self.configs = list(
            dict.fromkeys(row["config"] for name in notebooks for row in asked.get(name, []))
        )
        shown = (
            asked.get("retrieval_gallery", []) if {*notebooks} & {*experiments.WITH_FILES} else []
        )
        self.whole = {row["config"] for row in shown}
        self.parameters, self.reports = parameters, len(notebooks)
        self.counts = {"runs": 0, "reports": 0}
        self.bar, self.missing = None, []

    def __enter__(self) -> "Progress":
        given = self.parameters.get
        self.asked = {
            "root": path_of(given("output_root", "runs")),
            "data_root": given("data_root") and str(path_of(given("data_root"))),
            "jobs": given("jobs") or None,
            "processes": given("processes", 1),
            "files": self.whole,
        }
        try:
            stored = grids.records(self.configs, **self.asked, train=False)
        except StudyError:  # a dataset that is not here: each notebook says so itself
            self.configs, stored = [], []
        self.missing = [
            config for config, record in zip(self.configs, stored, strict=True) if record is None
        ]
        if not given("train", True):
            tqdm.write(
                f"{len(self.configs)} runs: {len(self.configs) - len(self.missing)} stored, the others are not run",
                file=sys.stderr,
            )
            self.missing = []
        jobs = given("jobs") or min(cpu_count(), len(self.missing)) or 1
        if self.configs and given("train", True):
            tqdm.write(plan.line(len(self.configs), self.missing, jobs), file=sys.stderr)
        self.weights = {config: (plan.seconds(config) or 60) / jobs for config in self.missing}
        total = sum(self.weights.values()) + SECONDS_A_REPORT * self.reports
        self.bar = tqdm(
            total=total,
            smoothing=0,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc}, {elapsed} gone, about {remaining} left",
        )
        self.count()
        return self

    def __exit__(self, *problem) -> None:
        self.bar.close()

    def count(self, **done: int) -> None:
        self.counts = {name: number + done.get(name, 0) for name, number in self.counts.items()}
        runs = f"{self.counts['runs']} of {len(self.missing)} runs, " if self.missing else ""
        self.bar.set_description_str(f"{runs}{self.counts['reports']} of {self.reports} reports")

    def trained(self, config: Config) -> None:
        self.count(runs=1)
        self.bar.update(self.weights[config])

    def rendered(self) -> None:
        self.count(reports=1)
        self.bar.update(SECONDS_A_REPORT)

    def train(self) -> None:
        """Train what is missing. A run that fails is told again by the notebook that asks for it."""
        if self.missing:
            scheduler = self.parameters.get("scheduler")
            try:
                grids.records(
                    self.missing,
                    **self.asked,
                    progress=self.trained,
                    executor=executors.cluster(scheduler) if scheduler else None,
                )
            except StudyError as problem:
                tqdm.write(str(problem), file=sys.stderr)
