"""What is hurt: a data set, a whole run of the smallest network on it, and one half done."""

import contextlib
import dataclasses
import pathlib
import shutil
import sys

TESTS = pathlib.Path(__file__).parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]

import jax
from loop_runs import Stopping, compiled_once
from small import SMALL_FLAGS
from tau_folder import write_tau

from asc_jax import experiment
from asc_jax.cli import prepare_data, quiet
from asc_jax.cli.config_flag import read_config
from asc_jax.machine import distributed
from tests.faults import runs
from tests.faults.judge import End, end_of

N_TRAIN, N_TEST = 18, 3
N_STEPS, HALF = 9, (3, 6)  # three epochs of three steps; the checkpoints of the half-done run
OPTIONS = (
    "--config.data.batch_size=6",  # in several chunks: see `models.chunks`
    *SMALL_FLAGS,
    "--config.train.n_epochs=3",
    "--config.train.eval_every_epochs=1",
    "--config.train.keep_best=True",
    "--config.train.steps_per_call=2",
    "--config.train.resident=off",  # what is done to a batch is done as it is read
)


@dataclasses.dataclass(frozen=True)
class Home:
    """Everything lies in `folder`; `train` trains in this process as `train.py` would."""

    folder: pathlib.Path
    config: object
    parts: object
    whole: End | None = None

    @property
    def tau(self) -> pathlib.Path:
        return self.folder / "tau"

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    @property
    def half(self) -> pathlib.Path:
        return self.folder / "half"

    @property
    def compiled(self) -> pathlib.Path:
        return self.folder.with_name("compiled")  # kept when the home is built anew

    @property
    def command(self) -> list[str]:
        """Of a process that trains as `train` does, but for its workdir."""
        options = [f"--config.data.dir={self.data}", *OPTIONS, "--replicas=1"]
        return [sys.executable, str(ROOT / "train.py"), "--config=demo.py", *options]

    def train(self, workdir, *, data=None, change=lambda clips: clips) -> runs.Outcome:
        return runs.train(self, workdir, data or self.data, change)

    def copy_half(self, folder: pathlib.Path) -> pathlib.Path:
        return pathlib.Path(shutil.copytree(self.half, folder / "run"))


@contextlib.contextmanager
def opened(folder: pathlib.Path):
    """Build a home, anew, in a folder; its programs are compiled once."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet()
    distributed.start(replicas=1)
    jax.config.update("jax_compilation_cache_dir", str(folder.with_name("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    write_tau(folder / "tau", n_train=N_TRAIN, n_test=N_TEST, percents=(100,))
    runs.call(prepare_data.prepare, folder / "tau", folder / "data").require_done()
    config = read_config("demo.py", [f"--config.data.dir={folder / 'data'}", *OPTIONS])
    with compiled_once(experiment.make(config)) as parts:
        home = Home(folder, config, parts)
        home.train(folder / "whole").require_done()
        stopping = home.train(home.half, change=lambda clips: Stopping(clips, HALF[1]))
        if stopping.status != 143:
            raise SystemExit(f"the half-done run ended with {stopping}")
        yield dataclasses.replace(home, whole=end_of(home, folder / "whole"))
