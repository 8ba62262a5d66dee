"""One run of many: its workdir, what it is given, and why it is not done."""

import dataclasses
import pathlib

import ml_collections

from asc_jax.challenge.table1.results import read_run
from asc_jax.errors import UserError
from asc_jax.training.workdir import checkpoints, run_config


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of many.

    system, percent, seed: its place in the table. config_name, overrides: for `train.py`;
    config: the config that they make. n_clips: number of clips of its training split.
    """

    system: str
    percent: int
    seed: int
    config_name: str
    overrides: tuple[str, ...]
    config: ml_collections.ConfigDict = dataclasses.field(compare=False, repr=False)
    workdir: pathlib.Path
    n_clips: int

    @property
    def title(self) -> str:
        return f"{self.system}, {self.percent} %, seed {self.seed}"

    @property
    def work(self) -> int:
        """Number of clips that it trains on, over all epochs."""
        return self.n_clips * self.config.train.n_epochs


def unfinished(run: Run) -> str | None:
    """Return why a run is not done; None if it is trained to its end and evaluated since.

    Raises:
      UserError: the workdir belongs to a run with another config.
    """
    if not (run.workdir / "config.json").exists():
        return "not begun"
    run_config.check(run.workdir, run.config, flag="--out")
    step = _last_step(run.workdir)
    if step is None or not (run.workdir / "results.json").exists():
        return "not trained and evaluated to the end"
    try:
        results = read_run(run.workdir).results
    except UserError as error:
        return str(error)
    expected = {
        "step": step,
        "epoch": run.config.train.n_epochs,
        "seed": run.seed,
        "split": run.config.data.train_split,
        "test_split": run.config.data.test_split,
        "stored_dtype": run.config.precision.stored,
        "checkpoint": "last",
    }
    stale = [
        f"{key} {results.get(key)!r}, expected {value!r}"
        for key, value in expected.items()
        if results.get(key) != value
    ]
    return f"results.json is of another state: {'; '.join(stale)}" if stale else None


def _last_step(workdir: pathlib.Path) -> int | None:
    if not (workdir / "checkpoints").is_dir():
        return None
    manager = checkpoints.Checkpoints(workdir)
    try:
        return manager.latest_step()
    finally:
        manager.close()
