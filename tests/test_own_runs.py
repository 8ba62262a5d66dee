"""A run on classes of one's own names them everywhere, and what does not fit its data is told."""

import csv
import json
import re
from unittest import mock

import numpy as np
import pytest
import soundfile
from commands import call
from short import NAME

from asc_jax.data import held_out, labels
from asc_jax.data.clips import clips_in_both, from_arrays, open_for, open_split
from asc_jax.errors import UserError
from asc_jax.evaluation.campaign import runs as campaign_runs
from asc_jax.experiment import with_labels
from asc_jax.export.c_header import string
from asc_jax.library import load_run
from configs import base

pytest.importorskip("tensorflow_datasets")
RATE = 8000
CLASSES = ("=SUM(A1)", "große Säge", "rain/hail")
SMALL = (  # a network and features that compile at once
    "--config=base.py", "--config.data.dir=data", "--config.data.train_split=fold1+fold2",
    "--config.data.test_split=fold3", "--config.data.batch_size=8", "--config.data.clip_s=0.5",
    "--config.features.sample_rate=8000", "--config.features.n_fft=256",
    "--config.features.win_length=256", "--config.features.hop_length=400",
    "--config.features.n_mels=16", "--config.features.f_max=4000.",
    "--config.augment.freq_mask.max_width=3", "--config.model.width=8",
    f"--config.model.name={NAME}",
    "--config.train.n_epochs=1", "--config.train.eval_every_epochs=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three classes, six recordings each, by two phones and one not known; a trained run."""
    home = tmp_path_factory.mktemp("home")
    rows = [("path", "label", "device", "fold")]
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for recording in range(6):
            path = f"{number}-{recording}.wav"
            tone = np.sin(np.arange(RATE) * (number + 1) * 0.3) * rng.uniform(0.1, 0.5)
            soundfile.write(home / path, tone + 0.01 * rng.standard_normal(RATE), RATE)
            device = ("phone", "old phone", "")[recording % 3]
            rows.append((path, name, device, f"fold{recording % 3 + 1}"))
    with (home / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "device", "split"), *rows[1:]])
    words = "--layout=table", "--input_table=list.csv", "--data_dir=data", "--clip_s=0.5"
    done = call("prepare-data", *words, "--hop_s=0.5", "--sample_rate=8000", cwd=home)
    assert done.returncode == 0, done.stderr
    done = call("train", *SMALL, "--workdir=run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def config(home):
    """The config of the run."""
    return load_run(home / "run").config.copy_and_resolve_references().unlock()


def test_run_keeps_the_names_of_its_data_set(home):
    run = load_run(home / "run")
    assert run.experiment.labels.classes == CLASSES
    assert run.experiment.labels.groups["device"].values == ("old phone", "phone")
    assert run.variables["params"]["head"]["kernel"].shape[-1] == 3


def test_evaluation_counts_by_class_and_group(home):
    done = call("eval", "--workdir=run", cwd=home)
    assert done.returncode == 0, done.stderr
    assert re.search(r"by device\n +old phone +\d.*\n +phone ", done.stdout)
    results = json.loads((home / "run/results.json").read_text("utf-8"))
    assert list(results["float16"]["classes"]) == list(CLASSES)
    # Fold 3 has only recordings of the device that is not known.
    counts = {k: v["n_clips"] for k, v in results["float16"]["groups"]["device"]["values"].items()}
    assert counts == {"old phone": 0, "phone": 0, "unknown": 12}
    assert results["segments"]["n_segments"] == 6
    with (home / "run/truth.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["label"] for row in rows} == {*CLASSES}
    assert {row["device"] for row in rows} == {"unknown"}
    assert rows[0].keys() == {"filename", "label", "recording", "device"}


def test_run_becomes_c_of_its_own_classes_and_rate(home, few_clips):
    done = call("convert", "--to=c", "--workdir=run", "--data_dir=data", cwd=home)
    assert done.returncode == 0, done.stderr
    header = (home / "run/export/asc_model.h").read_text("utf-8")
    assert "#define ASC_N_CLASSES 3\n" in header
    assert "#define ASC_N_SAMPLES 4000\n" in header
    assert all(f"    {string(name)},\n" in header for name in CLASSES)


def test_prediction_needs_no_data_set(home, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros((3 * 11_025, 2)), 11_025)
    done = call(
        "predict", "long.wav", f"--workdir={home / 'run'}", "--format=csv", "--top_k=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert rows[0]["class_1"] in CLASSES
    assert [row["what"] for row in rows].count("window") == 6  # of half a second


def test_prediction_of_a_recording_is_the_mean_over_the_clips_of_the_data_set(home):
    run = load_run(home / "run")
    batch = next(open_split(home / "data", "fold3").in_order(2))
    assert batch["recording"].tolist() == ["0-2.wav"] * 2
    logits = run.apply(batch["audio"])
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = run.predict(home / "0-2.wav").probs
    np.testing.assert_allclose(found, probs, rtol=0, atol=1e-6)


def test_quiet_windows_are_told_and_left_out_where_asked(home, tmp_path):
    rng = np.random.default_rng(0)
    waveform = np.concatenate([rng.uniform(-0.5, 0.5, RATE), np.full(RATE, 1e-4)])
    soundfile.write(tmp_path / "half.wav", waveform, RATE, subtype="FLOAT")
    words = ("predict", "half.wav", f"--workdir={home / 'run'}", "--format=json")
    rows = [json.loads(line) for line in call(*words, cwd=tmp_path).stdout.splitlines()]
    assert [row["start_s"] for row in rows[:-1]] == [0, 0.5, 1, 1.5]
    assert any("2 windows have no sample above -60 dBFS" in note for note in rows[-1]["notes"])
    done = call(*words, "--min_peak_dbfs=-60", cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["start_s"] for row in rows[:-1]] == [0, 0.5]
    assert rows[-1]["n_windows"] == 2
    done = call(*words, "--min_peak_dbfs=-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no window has a sample above -1 dBFS" in done.stderr


def test_joined_splits_are_read_one_after_the_other(home):
    whole = open_split(home / "data", "fold2+fold1")
    parts = [open_split(home / "data", name) for name in ("fold2", "fold1")]
    names = [name for part in parts for batch in part.in_order(5) for name in batch["filename"]]
    order = np.random.default_rng(0).permutation(len(whole))
    read = [name for batch in whole.batches(order, 5) for name in batch["filename"]]
    names = [name for name in names if name]
    assert [name for name in read if name] == [names[i] for i in order]
    assert whole.identity not in (None, *(part.identity for part in parts))
    assert len(clips_in_both(home / "data", "fold2+fold1", "fold1")) == len(parts[1])
    assert clips_in_both(home / "data", "fold2+fold1", "fold3") == []


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_data_set_built_anew_is_noticed_before_runs_count_as_done(home, config, fraction):
    run = mock.Mock(config=config, workdir="run")
    config.data.dir = str(home / "data")
    config.data.validation_locations = fraction
    config.seed = 1
    clips = held_out.split(open_split(home / "data", "fold1+fold2"), fraction, config.seed)[0]
    campaign_runs._require_same_clips(run, {"train_data": clips.identity})
    with pytest.raises(UserError, match="run is of other clips than fold1.fold2 in .* now holds"):
        campaign_runs._require_same_clips(run, {"train_data": "0"})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("fold1+fold9", "no split 'fold9'; it has fold1, fold2, fold3"),
        ("fold1+fold1", "names one twice"),
        ("", "no split ''"),
    ],
)
def test_splits_that_are_not_there_are_named(home, split, message):
    with pytest.raises(UserError, match=re.escape(message)):
        open_split(home / "data", split)


@pytest.mark.nightly
def test_split_both_trained_and_tested_on_is_told(home):
    words = [*SMALL, "--config.data.test_split=fold2", "--config.train.eval_every_epochs=0"]
    done = call("train", *words, "--workdir=both", cwd=home)
    assert "fold2 is in config.data.train_split and in config.data.test_split" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.sample_rate": 16_000}, "are at 8000 Hz.*or set the section features for 8000"),
        ({"data.clip_s": 1.0}, "have 0.5 seconds.*give --config.data.clip_s=0.5"),
        ({"labels.classes": ("a", "b", "c")}, "the data set in .* has the classes .*große"),
        ({"labels.classes": CLASSES[::-1]}, "they differ in 'their order'"),
    ],
)
def test_data_set_of_another_kind_is_rejected(home, config, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        open_for(config, "fold1", home / "data")


def test_recordings_are_held_out_whole(home):
    trained, held = held_out.split(open_split(home / "data", "fold1+fold2"), 0.5, seed=1)
    names = [
        {name for batch in clips.in_order(4) for name in batch["recording"]} - {""}
        for clips in (trained, held)
    ]
    assert not names[0] & names[1]
    assert [len(each) for each in names] == [6, 6]


def test_network_has_as_many_outputs_as_the_data_set_has_classes(tmp_path):
    config = base.get_config()
    assert with_labels(config).labels == config.labels  # without a data set, the config's own


def test_complexity_of_other_classes_can_be_asked_for(home):
    classes = '--config.labels.classes=("a","b")'
    done = call("complexity", "--config=base.py", classes, "--config.data.dir=none", cwd=home)
    assert re.search(r"head +32×9×2 ", done.stdout), done.stdout
    done = call("complexity", *(word for word in SMALL), cwd=home)
    assert re.search(r"head +\d+×\d+×3 ", done.stdout)


def test_old_configs_are_of_taus_classes():
    from asc_jax.training.workdir.upgrade import upgraded

    assert len(upgraded({"network": "cp_mobile"})["labels"]["classes"]) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": ["a"], "groups": {}}, "there are 1 classes, expected 2 to 100"),
        ({"classes": ["a", "a"], "groups": {}}, "class 'a' is there twice"),
        ({"classes": "ab", "groups": {}}, "is no list of names"),
        ({"classes": ["a", "b\n"], "groups": {}}, "no space at either end"),
        ({"classes": ["a", "b"], "groups": {"Room": {"values": [], "sets": {}}}}, "lower-case"),
        ({"classes": ["a", "b"], "groups": {"label": {"values": [], "sets": {}}}}, "be called"),
        (
            {"classes": ["a", "b"], "groups": {"room": {"values": ["x"], "sets": {"s": ["y"]}}}},
            "the set s of room is",
        ),
    ],
)
def test_labels_that_cannot_be_are_told(content, message):
    with pytest.raises(UserError, match=message):
        labels.from_dict(content)


def test_arrays_need_no_device():
    clips = from_arrays(np.zeros((2, 4)), [0, 1], room_id=np.array([1, -1]))
    batch = next(clips.in_order(2))
    assert batch["room_id"].tolist() == [1, -1]
    assert "device_id" not in batch
