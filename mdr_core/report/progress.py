"""One display while reports are made: what is stored, what is trained, how far it is."""

import sys
from typing import Any

from joblib import cpu_count
from tqdm import tqdm

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.report.parameters import path_of
from mdr_core.report.reruns import MACHINE, SETTINGS
from mdr_core.runs import executors, grids, plan
from mdr_core.runs.store import RunStore
from mdr_core.study import experiments, profiles

BAR = "{percentage:3.0f}% |{bar:20}| {desc}, {elapsed} gone, about {remaining} left"
SECONDS_A_REPORT = 5.0  # to run and render a notebook whose runs are stored, about


class Progress:
    """One display of the whole: the notebooks' runs are trained together, before they are read.

    A notebook's runs are known where no other parameters are given than seeds, settings of a run
    and the machine's; under others each notebook trains its own.
    """

    def __init__(self, notebooks: list[str], parameters: dict):
        self.given, self.reports = parameters, len(notebooks)
        others = {*MACHINE, "seeds", "train"}
        settings = {k: v for k, v in parameters.items() if k not in others and v not in (-1, "")}
        seeds, runs = parameters.get("seeds"), {}
        if settings.keys() <= {*SETTINGS} - {"weights"} and isinstance(seeds or [], list):
            runs = experiments.of_notebooks(parameters["profile"], seeds, **settings)
        asked = [row["config"] for name in notebooks for row in runs.get(name, [])]
        self.configs: list[Config] = list(dict.fromkeys(asked))
        data_root = path_of(parameters["data_root"]) if parameters.get("data_root") else None
        self.store = RunStore(path_of(parameters.get("output_root", "runs")), data_root)
        jobs = parameters.get("jobs") or None
        self.where: dict[str, Any] = {"jobs": jobs, "processes": parameters.get("processes", 1)}
        self.missing: list[Config] = []
        self.trained = self.made = 0  # runs, reports

    def __enter__(self) -> "Progress":
        try:
            stored = grids.records(self.configs, self.store, **self.where, train=False)
        except StudyError:  # a dataset that is not here: each notebook says so itself
            self.configs, stored = [], []
        known = dict(zip(self.configs, stored, strict=True))
        missing = [config for config, record in known.items() if record is None]
        jobs = self.where["jobs"] or min(cpu_count(), len(missing)) or 1
        if not profiles.trains(self.given["profile"], self.given.get("train")):
            line = f"{len(known)} runs: {len(known) - len(missing)} stored, the others are not run"
            tqdm.write(line, file=sys.stderr)
        elif self.configs:
            tqdm.write(plan.line(len(known), missing, jobs), file=sys.stderr)
            self.missing = missing
        self.seconds = {config: (plan.seconds(config) or 60) / jobs for config in self.missing}
        total = sum(self.seconds.values()) + SECONDS_A_REPORT * self.reports
        self.bar = tqdm(total=total, smoothing=0, bar_format=BAR)
        self.advance(0)
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.close()

    def advance(self, seconds: float) -> None:
        runs = f"{self.trained} of {len(self.missing)} runs, " if self.missing else ""
        self.bar.set_description_str(f"{runs}{self.made} of {self.reports} reports")
        self.bar.update(seconds)

    def rendered(self) -> None:
        self.made += 1
        self.advance(SECONDS_A_REPORT)

    def ended(self, config: Config) -> None:
        self.trained += 1
        self.advance(self.seconds[config])

    def train(self) -> None:
        """Train what is missing. A run that fails is told again by the notebook that reads it."""
        if not self.missing:
            return
        scheduler = self.given.get("scheduler")
        try:
            grids.records(
                self.missing,
                self.store,
                **self.where,
                progress=self.ended,
                executor=executors.cluster(scheduler) if scheduler else None,
            )
        except StudyError as problem:
            tqdm.write(str(problem), file=sys.stderr)
