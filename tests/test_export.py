"""A finished run becomes files that were compared first, and refused where they differ."""

import contextlib
import dataclasses
import functools
import re

import numpy as np
import pytest
from exported import kind_of, kinds, moved_variables, save_run
from short import short_config
from small import noise, small_clips

from asc_jax import experiment, features
from asc_jax.errors import UserError
from asc_jax.evaluation import evaluate
from asc_jax.export import c_header, check
from asc_jax.export.run import KINDS, deploy, export_run, write
from asc_jax.machine import files
from asc_jax.operations.graph import ARTEFACTS, INPUT, Operation, compute
from asc_jax.quantisation.c_float import export_float32
from asc_jax.quantisation.run import export_int8

INT8_TOLERANCE = 0.05  # of the range of the logits; measured: 0.017
FILES = {
    "stablehlo": ["log_mel_to_logits.stablehlo", "waveform_to_probs.stablehlo"],
    "onnx": ["log_mel_to_logits.onnx", "waveform_to_probs.onnx"],
    "litert": ["log_mel_to_logits.tflite", "waveform_to_probs.tflite"],
    "c": ["asc_model.h"],
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"))


def experiment_variables():
    return moved_variables(experiment.make(short_config()))


def saved(folder, variables=None, **overrides):
    """A run of the network of `short.py`, which compiles sooner."""
    variables = variables or experiment_variables()
    made = experiment.make(short_config())
    return save_run(folder, short_config(**overrides), variables, made)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("kind", kinds())
def test_run_is_exported_and_compared(workdir, tmp_path, kind):
    kind_of(kind)
    lines = export_run(workdir, kind, out_dir=tmp_path / "out", clips=small_clips(40))
    assert names_in(tmp_path / "out") == FILES[kind]
    text = "\n".join(lines)
    for name in FILES[kind]:
        size = (tmp_path / "out" / name).stat().st_size
        assert f"{tmp_path / 'out' / name}: {size:,} bytes" in text
    assert "256 clips, 216 of them synthetic noise" in text  # 40 of the split
    assert text.count("same top class on 100.00 %") >= 2
    assert "accuracy" in text
    if kind == "onnx":  # b24: its float32 file, below, is quantised as it is
        assert lines[-1].endswith("write the files with --dtype float32")


def test_b24_float32_file_is_quantised_as_it_is(few_clips, workdir, tmp_path):
    """The line that is printed names what works."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    runtime = kind_of("onnx") and pytest.importorskip("onnxruntime")
    lines = export_run(workdir, "onnx", out_dir=tmp_path, weights="float32")
    assert "quantize_dynamic(FILE, NEW_FILE, weight_type=QuantType.QUInt8)" in lines[-1]
    clips = check.synthetic_noise(np.random.default_rng(0), 32, 32_000)
    log_mel = experiment_log_mel(clips)
    for name, batch in (("waveform_to_probs", clips), ("log_mel_to_logits", log_mel)):
        path, small = tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx"
        quantization.quantize_dynamic(path, small, weight_type=quantization.QuantType.QUInt8)
        results = []
        for file in (path, small):
            session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
            results.append(session.run(None, {session.get_inputs()[0].name: batch})[0])
        if name == "waveform_to_probs":
            results = map(np.log, results)
        before, after = (logits - logits.mean(1, keepdims=True) for logits in results)
        difference = np.abs(after - before).max() / np.ptp(before)
        assert 0 < difference < INT8_TOLERANCE, name


def experiment_log_mel(clips):
    return np.asarray(features.log_mel(clips, **short_config().features))


def test_files_go_into_the_workdir_and_all_clips_of_a_larger_split_are_compared(workdir):
    lines = export_run(workdir, "c", weights="float32", clips=small_clips(270))
    assert names_in(workdir / "export") == ["asc_model.h"]
    assert "compared on 270 clips:" in lines


@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "c"])
def test_export_with_one_weight_changed_is_refused(monkeypatch, few_clips, workdir, tmp_path, kind):
    build = kind_of(kind).build

    def tampered(deployment):
        *others, head, mean = deployment.operations
        bias = head.arrays["bias"] + np.float16(1 / 64) * (np.arange(10) == 3)
        head = dataclasses.replace(head, arrays=head.arrays | {"bias": bias.astype(np.float16)})
        return build(dataclasses.replace(deployment, operations=[*others, head, mean]))

    monkeypatch.setattr(KINDS[kind], "build", tampered)
    with pytest.raises(UserError, match=r"is not our network: logits differ by up to 0\.01[56] "):
        export_run(workdir, kind, out_dir=tmp_path / "out")
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize("fault", ["a folder in the way", "disk full"])
def test_failed_write_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch, fault):
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    write({one: b"old"})
    atomic_writer = files.atomic_writer

    @contextlib.contextmanager
    def full(path, **options):
        with atomic_writer(path, **options) as file:
            if path == two:
                raise OSError(28, "No space left on device")
            yield file

    if fault == "disk full":
        two.write_bytes(b"old")
        monkeypatch.setattr(files, "atomic_writer", full)
        expected = "No space left on device; free some space, or choose another --out"
    else:
        two.mkdir()
        expected = "two.onnx is a folder; choose another --out"
    with pytest.raises(UserError, match=f"^cannot write to {tmp_path}: {expected}"):
        write({one: b"1", two: b"2"})
    assert names_in(tmp_path) == ["one.onnx", "two.onnx"]
    assert one.read_bytes() == b"old"


@pytest.mark.parametrize("where", ["file", "file/x/y"])
def test_folder_that_cannot_be_written_is_named_before_the_run_is_opened(tmp_path, where):
    (tmp_path / "file").touch()
    for export in (
        lambda out: export_run("no run", "onnx", out_dir=out),
        lambda out: export_int8("no run", None, out_dir=out),
        lambda out: export_float32("no run", out_dir=out),
    ):
        expected = f"^cannot write to {tmp_path / where}: Not a directory; choose another --out$"
        with pytest.raises(UserError, match=expected):
            export(tmp_path / where)
        with pytest.raises(UserError, match="^no run in no run"):
            export(tmp_path / "a" / "b")
    assert names_in(tmp_path) == ["file"]


def test_folder_that_cannot_be_made_is_called_out_not_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^cannot write to .*file/x: .* choose another --out$"):
        write({tmp_path / "file" / "x" / "asc_model.h": b"1"})


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("params", "head", "kernel"), np.nan, "head/kernel"),
        (("batch_stats", "b2", "expand", "norm", "var"), -1.0, "b2/expand/bias"),
    ],
)
def test_network_that_gives_no_numbers_is_refused_by_name(tmp_path, path, value, named):
    variables = experiment_variables()
    functools.reduce(lambda tree, name: tree[name], path, variables)[..., 0] = value
    saved(tmp_path, variables)
    with pytest.raises(UserError, match=f"^{named}, its BatchNorm folded in, holds NaN or inf"):
        export_run(tmp_path, "c")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("damaged", ["logits", "deployed"])
def test_reference_that_is_no_number_is_said_plainly(damaged):
    logits = {"logits": np.eye(10, dtype="f4")[:4], "deployed": np.eye(10, dtype="f4")[:4]}
    logits[damaged] = np.full_like(logits[damaged], np.inf)
    batch = noise(4)[0], np.full(4, -1), np.ones(4, bool)
    with pytest.raises(UserError, match="gives NaN or inf for 4 of 4 clips: its training diverged"):
        check.compare(lambda audio: (audio, *logits.values()), {}, iter([batch]))


@pytest.mark.parametrize(("n_other", "refused"), [(50, False), (51, True)])
def test_network_unlike_the_evaluated_one_is_refused(n_other, refused):
    """Of 1,000 clips, whatever the files themselves agree with."""
    logits = np.eye(10, dtype=np.float32)[np.arange(1000) % 10]
    deployed = logits.copy()
    deployed[:n_other] = np.roll(logits[:n_other], 1, axis=1)
    batch = np.zeros((1000, 8), np.float32), np.full(1000, -1), np.ones(1000, bool)
    functions = {
        "waveform_to_probs": lambda inputs: evaluate.softmax(logits),
        "log_mel_to_logits": lambda inputs: logits,
    }
    tally = check.compare(lambda a: (a, logits, deployed), functions, iter([batch]))
    if not refused:
        check.require_agreement(tally)
        return
    with pytest.raises(UserError, match="that asc-jax eval evaluates.* 94.90 % of 1,000"):
        check.require_agreement(tally)


@pytest.mark.parametrize("spoil", [np.nan, np.inf, -np.inf])
def test_results_that_are_no_numbers_are_refused(spoil):
    logits = np.eye(10, dtype=np.float32)[:4]
    batch = noise(4)[0], np.full(4, -1), np.ones(4, bool)

    def reference(audio):
        return audio, logits, logits

    functions = dict.fromkeys(ARTEFACTS, lambda inputs: logits + spoil)
    tally = check.compare(reference, functions, iter([batch]))
    with pytest.raises(UserError, match="is not our network: logits are NaN or inf"):
        check.require_agreement(tally)


def test_another_top_class_is_refused_even_where_logits_are_near():
    logits = np.zeros((1000, 10), np.float32)
    logits[:, 4] = 1e-5
    other = logits.copy()
    other[:2, 5] = 2e-5
    batch = np.zeros((1000, 8), np.float32), np.full(1000, -1), np.ones(1000, bool)
    functions = dict.fromkeys(ARTEFACTS, lambda inputs: np.exp(other))
    tally = check.compare(lambda a: (a, np.exp(logits), logits), functions, iter([batch]))
    assert tally["n_same"]["log_mel_to_logits"] == 998
    tally["gap"]["waveform_to_probs"] = 0.0
    with pytest.raises(UserError, match="the same on 99.80 % of 1,000 clips .*trained long enough"):
        check.require_agreement(tally)


def test_rows_that_fill_a_batch_up_do_not_count():
    batches = list(check.clip_batches(small_clips(40), 32_000))
    assert sum(mask.sum() for _, _, mask in batches) == 256
    assert sum((mask & (label >= 0)).sum() for _, label, mask in batches) == 40
    noise_only = list(check.clip_batches(None, 32_000))
    assert sum(mask.sum() for _, _, mask in noise_only) == 256


def test_synthetic_noise_are_seeded_and_vary_in_loudness():
    clips = check.synthetic_noise(np.random.default_rng(0), 64, 4000)
    again = check.synthetic_noise(np.random.default_rng(0), 64, 4000)
    np.testing.assert_array_equal(clips, again)
    loudness = clips.std(axis=1)
    assert 0.0009 < loudness.min() < 0.005
    assert 0.02 < loudness.max() < 0.11


def test_over_budget_network_is_refused_or_stamped(few_clips, tmp_path):
    saved(tmp_path / "run", budget__max_bytes=1000)
    with pytest.raises(UserError, match="over the task's budget"):
        export_run(tmp_path / "run", "c")
    saved(tmp_path / "free", budget__max_bytes=1000, budget__enforce=False)
    lines = export_run(tmp_path / "free", "c")
    assert names_in(tmp_path / "free" / "export") == ["asc_model.over_budget.h"]
    assert any(line.startswith("over budget: ") for line in lines)
    text = (tmp_path / "free" / "export" / "asc_model.over_budget.h").read_text()
    assert "budget: over budget" in text


@pytest.mark.parametrize("arguments", [{"kind": "tflite"}, {"kind": "c", "weights": "bfloat16"}])
def test_unknown_word_is_refused_and_the_known_ones_are_listed(tmp_path, arguments):
    with pytest.raises(UserError, match="unknown (kind|weights) .*; known: (stablehlo|float16), "):
        export_run(tmp_path, **arguments)


def test_weight_beyond_float16_is_named(tmp_path):
    variables = experiment_variables()
    variables["params"]["b2"]["expand"]["kernel"] *= 1e7
    saved(tmp_path, variables)
    with pytest.raises(UserError, match="b2.*more than float16 can"):
        export_run(tmp_path, "c")


def test_header_is_read_back_from_its_text(workdir):
    """A digit changed in the file changes what is compared."""
    deployment = deploy(experiment.make(short_config()), experiment_variables(), "float32", {})
    text = c_header.build(deployment)["asc_model"].decode()
    changed = re.sub(r"(ASC_VALUES\[\d+\] = {\s+-?)", r"\g<1>9", text, count=1)
    log_mel = np.ones((1, 32, deployment.n_frames, 1), np.float32)
    one, two = (
        c_header.load({"asc_model": t.encode()})["log_mel_to_logits"](log_mel)
        for t in (text, changed)
    )
    assert np.abs(one - two).max() > 1e-3


def test_activation_of_the_last_operation_is_computed():
    x = np.array([[-1.0, 2.0]], np.float32)
    operations = [Operation("activation", "last", [INPUT], (2,), activation="relu")]
    assert compute(operations, {}, x).tolist() == [[0.0, 2.0]]
