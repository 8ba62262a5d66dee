"""A trained run in Python: `asc_jax.load_run`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from short import NAME
from small_run import restored, write_run

import asc_jax
from asc_jax import library
from asc_jax.cli import predict
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.prediction.lines import KINDS
from asc_jax.prediction.predictor import predict as print_lines


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_run(home / "run", model__name=NAME)
    return home


@pytest.fixture(scope="module")
def run(home):
    return asc_jax.load_run(home / "run")


def noise(seconds, rate=8_000):
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def test_package_is_imported_without_jax():
    code = "import sys, asc_jax; assert not {'jax', 'numpy', 'absl'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(asc_jax.__all__) <= {*dir(library), "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = asc_jax.nothing


def test_run_has_its_config_variables_and_step(home, run):
    assert run.config.model.width == 8
    assert run.step == 7
    for ours, theirs in zip(*map(_leaves, (run.variables, _saved(home))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "variables" not in repr(run)


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def _saved(home):
    return restored(asc_jax.load_run(home / "run").experiment, home / "run")


def test_prediction_has_the_numbers_of_the_command(home, run, capsys):
    waveform = noise(2.5)
    prediction = run.predict(waveform, 8_000, hop_s=0.8)
    opened = library.recordings.read_array(waveform, 8_000)
    print_lines(library.Predictor(run.experiment, run.variables, predict.BATCH_SIZE), opened,
                KINDS["json"](SCENES, 10), hop_s=0.8)  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert prediction.classes == SCENES
    assert [line["start_s"] for line in lines[:-1]] == prediction.start_s.tolist() == [0, 0.8, 1.5]
    assert [line["end_s"] for line in lines[:-1]] == prediction.end_s.tolist()
    for line, probs in zip(lines, [*prediction.probs, prediction.mean], strict=True):
        told = {entry["class"]: entry["p"] for entry in line["top"]}
        np.testing.assert_allclose([told[name] for name in prediction.classes], probs, atol=1e-8)
    assert lines[-1]["top"][0]["class"] == prediction.label == prediction.scene
    assert lines[-1]["notes"] == list(prediction.notes)


def test_file_is_predicted_as_its_waveform(home, run):
    soundfile = pytest.importorskip("soundfile")
    stereo = np.stack([noise(1.2), noise(1.2)[::-1]], axis=1)
    soundfile.write(home / "a.wav", stereo, 8_000, subtype="FLOAT")
    of_file, of_array = run.predict(home / "a.wav"), run.predict(stereo, 8_000)
    np.testing.assert_array_equal(of_file.probs, of_array.probs)
    assert "2 channels averaged to one" in of_array.notes


def test_logits_are_those_of_the_prediction(run):
    waveform = noise(2, rate=32_000)
    logits = run.apply(waveform.reshape(2, 32_000))
    assert (logits.shape, logits.dtype) == ((2, 10), np.float32)
    probs = run.predict(waveform, 32_000).probs
    np.testing.assert_allclose(library.evaluate.softmax(logits), probs, atol=1e-6)


def test_results_are_read_where_the_evaluation_wrote_them(home, run):
    with pytest.raises(asc_jax.UserError, match=r"results.json is missing: .*asc-jax eval --work"):
        _ = run.results
    (home / "run" / "results.json").write_text('{"stored_dtype": "float16"}')
    assert run.results == {"stored_dtype": "float16"}
    (home / "run" / "results.json").write_text("[")
    with pytest.raises(asc_jax.UserError, match="results.json cannot be read"):
        _ = run.results
    (home / "run" / "results.json").unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "first"}, "unknown checkpoint 'first'; known: last, best"),
        ({"checkpoint": "best"}, "no checkpoint in .*run/best: train first"),
        ({"stored": "int4"}, "int4"),
    ],
)
def test_run_that_cannot_be_opened_is_a_user_error(home, options, message):
    with pytest.raises(asc_jax.UserError, match=message):
        asc_jax.load_run(home / "run", **options)
    with pytest.raises(asc_jax.UserError, match="no run in .*none"):
        asc_jax.load_run(home / "none", **options | {"checkpoint": "last"})


@pytest.mark.parametrize(
    ("recording", "options", "message"),
    [
        (noise(1), {}, "a waveform needs its rate in Hz"),
        ("a.wav", {"rate": 8_000}, "a file says it by itself"),
        (noise(1), {"rate": 8_000, "hop_s": 0.0}, "hop_s is 0, expected 0.01 … 3600 seconds"),
        (noise(1), {"rate": 10}, "sample rate 10 Hz, expected 1,000"),
        (noise(0), {"rate": 8_000}, "holds no samples"),
        (noise(1).astype(int), {"rate": 8_000}, "of int64, expected .n. or .n, n_channels. floats"),
        (noise(1)[None], {"rate": 8_000}, "shape .1, 8000. of float32, expected"),
        (np.full(8_000, np.nan), {"rate": 8_000}, "sample 0 .0.00 s. is nan"),
        ("no.wav", {}, "no.wav: cannot be read: No such file"),
    ],
)
def test_recording_that_does_not_fit_is_a_user_error(run, recording, options, message):
    with pytest.raises(asc_jax.UserError, match=message):
        run.predict(recording, **options)
