"""Make what the commands of each page presuppose, as small as it can be: data sets, runs, files."""

import csv
import re
import shutil

import evaluated_runs
import numpy as np
import soundfile
import table1_data
from by_day import BY_DAY
from commands import call
from pages import ROOT
from small import SMALL_FLAGS
from small_run import write_run
from small_submission import write_runs
from tau_folder import RATE, write_evaluation, write_tau, write_wav

NETWORK = "tiny:Named" if BY_DAY else "short:Short"
EPOCHS = ("--config.train.n_epochs=1", "--config.train.eval_every_epochs=1")
PERCENTS = (5, 10, 25, 50, 100)
FFMPEG = "#!/bin/sh\nhead -c 384000 /dev/zero\n"  # a second of 16 bits, 48 kHz, two channels


def done(*words, cwd):
    """Run a verb that must succeed."""
    ended = call(*words, cwd=cwd)
    assert ended.returncode == 0, ended.stderr


def build(folder, *, data_dir, percents=PERCENTS, tau="TAU"):
    """Write a folder in TAU's layout of 20 and 7 clips and build it."""
    write_tau(folder / tau, percents=percents)
    splits = ",".join(map(str, (*percents, "test")))
    words = ("--tau_dir", tau, "--data_dir", data_dir, "--splits", splits)
    done("prepare-data", *words, cwd=folder)


def tau22(folder):
    """The challenge's folder, its evaluation set and its data set."""
    build(folder, data_dir="data/tau22")
    write_evaluation(folder)


def demo_data(folder):
    """The demo's data set; that of a page whose commands do not make it."""
    build(folder, data_dir="data/demo", percents=(100,), tau="data/demo/scenes")


def run(folder, name, **overrides):
    """A run that is not evaluated, of the network that the scaled commands train."""
    own = {"data__dir": "data/demo", "data__train_split": "train_100pct", "model__name": NETWORK}
    return write_run(folder / name, **own | overrides)


def demo_run(folder):
    demo_data(folder)
    run(folder, "runs/demo")


def sounds(folder, name, n=5, classes=("bird", "car")):
    """A folder of recordings for each class; their names begin with the number of a fold."""
    for label in classes:
        for number in range(n):
            path = folder / name / label / f"{1 + number % 5}-{100 + number}-A.wav"
            write_wav(path, seed=number + 10 * len(label), n=2 * RATE, subtype="PCM_16")
    return folder / name


def table(path, files, **columns):
    """Write a list of recordings, their labels and, of each column, two values in turn."""
    rows = [
        [file.relative_to(path.parent).as_posix(), file.parent.name]
        + [values[number % 2] for values in columns.values()]
        for number, file in enumerate(files)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", *columns], *rows])


def data_page(folder):
    demo_data(folder)
    write_tau(folder / "TAU", percents=PERCENTS)
    write_evaluation(folder)
    files = sorted(sounds(folder, "recordings").rglob("*.wav"))
    table(folder / "list.csv", files, device=("phone", "recorder"))


def distillation_page(folder):
    tau22(folder)
    response = np.r_[0.5, np.zeros(99), 0.25]
    (folder / "data/micirp").mkdir()
    soundfile.write(folder / "data/micirp/one.wav", response, 32_000, "PCM_16")


def evaluation_page(folder):
    demo_data(folder)
    for seed, name in enumerate(("mine", "baseline")):
        run(folder, f"runs/{name}", seed=seed)
    done("eval", "--workdir", "runs/baseline", cwd=folder)
    for system, skill in (("new", 0.7), ("old", 0.6), ("a", 0.7), ("b", 0.6)):
        for seed in range(2):
            name = f"{system}{seed}" if len(system) == 1 else f"{system}/seed{seed}"
            gamma = float(system in ("new", "a"))
            workdir = folder / "runs" / name
            evaluated_runs.write(workdir, skill, seed, f"{system}.py", loss__gamma=gamma)


def pytorch_weights(folder):
    """Write model.pt, and return what it holds."""
    import torch

    from asc_jax.pytorch.twin import make_twin

    weights = make_twin().state_dict()
    torch.save(weights, folder / "model.pt")
    return weights


def export_page(folder):
    import torch

    demo_data(folder)
    write_wav(folder / "clip.wav", subtype="PCM_16")
    run(folder, "runs/demo", model__name="cp_mobile")  # which PyTorch has, too
    tensors = {f"model.{name}": value for name, value in pytorch_weights(folder).items()}
    told = {"hop_length": 500, "n_mels": 256}
    torch.save({"state_dict": tensors, "hyper_parameters": told}, folder / "model.ckpt")


def extend_page(folder):
    page = (ROOT / "docs/extend.md").read_text("utf-8")
    for name, code in re.findall(r"`(my_\w+\.py)`\n\n```python\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(code)


def gains_page(folder):
    scenes = write_tau(folder / "data/selection/scenes", percents=PERCENTS)
    audio = sorted((scenes / "audio").iterdir())
    rows = [
        [f"audio/{path.name}", path.name.partition("-")[0], ("train", "val")[number % 2]]
        + [path.stem.rpartition("-")[0], path.stem.rpartition("-")[2]]
        for number, path in enumerate(audio)
    ]
    with (scenes / "selection.csv").open("w", newline="") as file:
        header = ["path", "label", "split", "recording", "device"]
        csv.writer(file).writerows([header, *rows])


def parity_page(folder):
    pytorch_weights(folder)
    write_wav(folder / "clip.wav", subtype="PCM_16")


def prediction_page(folder):
    demo_run(folder)
    write_wav(folder / "audio.wav", n=2 * RATE, subtype="PCM_16")
    write_wav(folder / "folder/other.wav", subtype="PCM_16")
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "ffmpeg").write_text(FFMPEG)
    (programs / "ffmpeg").chmod(0o755)


def quantisation_page(folder):
    demo_data(folder)
    words = ("--config", "demo.py", "--workdir", "runs/x")  # as the page does later
    done("train", *words, *EPOCHS, *SMALL_FLAGS, f"--config.model.name={NETWORK}", cwd=folder)
    write_tau(folder / "scenes", percents=(25, 100))


def submission_page(folder):
    write_evaluation(folder)
    write_tau(folder / "TAU")
    words = ("--tau_dir", "TAU", "--splits", "evaluation", "--data_dir", "data/evaluation")
    done("prepare-data", *words, cwd=folder)
    write_runs(folder / "runs/splits")


def table1_page(folder):
    tau22(folder)
    sounds(folder, "sounds")


def training_page(folder):
    table1_data.write_data(folder / "TAU")  # two locations of each scene: one can be held out
    done("prepare-data", "--tau_dir", "TAU", "--splits", "5,test", cwd=folder)
    for name in ("runs/x", "runs/a/seed0"):
        run(folder, name, data__dir="data/tau22", data__train_split="train_5pct")


def own_sounds(folder):
    """A copy of the example's folder, a list of its recordings, and a run on other sounds."""
    folder = folder / "examples/own_sounds"  # the page's first command goes there
    folder.mkdir(parents=True)
    for path in (ROOT / "examples/own_sounds").glob("*.*"):
        shutil.copy(path, folder)
    places = [folder / "recordings" / name for name in ("bell", "drill", "fan", "pump")]
    files = [place / f"{number:02}.flac" for place in places for number in range(10)]
    columns = {"device": ("phone", "recorder"), "room": ("hall", "yard")}
    table(folder / "recordings.csv", files, **columns)
    run(folder, "runs/other")


FOLDERS = {
    "docs/accelerators.md": tau22,
    "docs/assumptions.md": tau22,
    "docs/complexity.md": demo_run,
    "docs/configs.md": tau22,
    "docs/data.md": data_page,
    "docs/distillation.md": distillation_page,
    "docs/evaluation.md": evaluation_page,
    "docs/export.md": export_page,
    "docs/extend.md": extend_page,
    "docs/gains.md": gains_page,
    "docs/parity.md": parity_page,
    "docs/prediction.md": prediction_page,
    "docs/quantisation.md": quantisation_page,
    "docs/results.md": lambda folder: sounds(folder, "ESC-10"),
    "docs/submission.md": submission_page,
    "docs/table1.md": table1_page,
    "docs/tau.md": tau22,
    "docs/training.md": training_page,
    "examples/microcontroller/README.md": demo_run,
    "examples/own_sounds/README.md": own_sounds,
}
IN_A_COPY = ("examples/own_sounds/README.md",)  # of the example; all others in a clone
