"""Train again and again for a given time, once undisturbed and once killed now and then.

    python tests/soak.py --minutes=60

Exit status 1 when a run that was killed ends in other parameters, or when an undisturbed one
holds more and more memory, threads or files. The training is that of `train.py`, the clips are
made up, the network is the smallest.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import long_run  # noqa: E402
import numpy as np  # noqa: E402
from small import SMALL_FLAGS  # noqa: E402
from tau_folder import write_tau  # noqa: E402

EVERY_S = 0.2
N_EPOCHS = 80
N_STEPS = N_EPOCHS * long_run.STEPS_PER_EPOCH
MAX_GROWTH = 0.01
TRAIN = (
    "--config=demo.py",
    f"--config.data.batch_size={long_run.BATCH_SIZE}",
    *SMALL_FLAGS,
    f"--config.train.n_epochs={N_EPOCHS}",
    "--config.train.checkpoint_every_epochs=4",
    "--config.train.eval_every_epochs=4",
    "--config.train.steps_per_call=5",
)


def start(home, workdir):
    args = [sys.executable, str(TESTS.parent / "train.py"), *TRAIN, f"--workdir={workdir}"]
    return subprocess.Popen(args, cwd=home, stdout=subprocess.DEVNULL)


def undisturbed(home, workdir):
    """`growth` of a run from its first checkpoint, all then done once, to its last."""
    process, noted = start(home, workdir), []
    while process.poll() is None:
        try:
            if 0 < max(saved_steps(home / workdir), default=0) < N_STEPS:
                noted.append(long_run.held_by(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            break  # it ended in between
        time.sleep(EVERY_S)
    if process.wait():
        raise SystemExit(f"train.py ended with status {process.returncode}")
    return growth(noted)


def growth(noted):
    """As `long_run.growth`, by medians: a look from outside may fall into a save.

    Bytes of the last quarter as a share of those of the third; threads and files of the second
    half less those of the first.
    """
    first, second = np.array_split(np.array(noted, float), 2)
    before, after = (np.median(part[:, 0]) for part in np.array_split(second, 2))
    threads, files = np.median(second[:, 1:], axis=0) - np.median(first[:, 1:], axis=0)
    return after / before - 1, threads, files


def saved_steps(workdir):
    """Steps of the checkpoints that are there."""
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


def disturbed(home, workdir, longest_s):
    """How often a run was killed, or asked to stop, before it got to its end."""
    for n_stops in range(10**6):
        process = start(home, workdir)
        try:
            status = process.wait(timeout=random.uniform(1, longest_s))
        except subprocess.TimeoutExpired:
            process.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
            process.wait()
            continue
        if status:
            raise SystemExit(f"train.py ended with status {status} after {n_stops} stops")
        return n_stops
    return None


def end_of(workdir):
    """Digests of the arrays of the newest checkpoint and of all else it says."""
    meta = workdir / "checkpoints" / str(max(saved_steps(workdir))) / "meta" / "metadata"
    return json.loads(meta.read_text())["digest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    until, n_rounds = time.monotonic() + 60 * parser.parse_args().minutes, 0
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        write_tau(home / "tau", n_train=long_run.N_CLIPS)
        command = [sys.executable, "-m", "asc_jax.cli.prepare_data", f"--tau_dir={home / 'tau'}"]
        subprocess.run([*command, f"--data_dir={home / 'data/demo'}"], cwd=TESTS.parent, check=True)
        while not n_rounds or time.monotonic() < until:
            n_rounds += 1
            began = time.monotonic()
            memory, threads, files = undisturbed(home, f"whole{n_rounds}")
            n_stops = disturbed(home, f"stopped{n_rounds}", time.monotonic() - began)
            ends = {end_of(home / f"{name}{n_rounds}") for name in ("whole", "stopped")}
            end = "same end" if len(ends) == 1 else "ANOTHER END"
            print(
                f"round {n_rounds}: memory {100 * memory:+.2f} %, threads {threads:+.0f}, files "
                f"{files:+.0f}; stopped {n_stops} times, {end}",
                flush=True,
            )
            if len(ends) > 1 or memory > MAX_GROWTH or max(threads, files) > 0:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
