"""The example for a microcontroller: its programs, also on an emulated chip, against Python."""

import functools
import importlib
import pathlib
import re
import runpy
import shutil
import subprocess
import wave

import jax
import numpy as np
import pytest
import small_run
from short import short_config

from asc_jax import features
from asc_jax.evaluation.evaluate import softmax
from asc_jax.export import check
from asc_jax.export.run import deploy
from asc_jax.operations import simulate
from asc_jax.quantisation import c_features, c_float, c_library, run

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "microcontroller"
STRICT = "CFLAGS=-std=c99 -O2 -Wall -Wextra -Wconversion -Werror"
ARM = ("arm-none-eabi-gcc", "qemu-system-arm")


class Built:
    """The library of a network with random kernels, in a folder, and what Python computes."""

    def __init__(self, folder, config):
        experiment = small_run.write_run(folder / "run", config=config)
        variables = small_run.restored(experiment, folder / "run")
        self.deployment = deployment = deploy(experiment, variables, "float32", {})
        self.values, self.n_samples = config.features.to_dict(), experiment.n_samples
        self.classes = experiment.labels.classes
        noise = check.synthetic_noise(np.random.default_rng(1), 12, self.n_samples)
        self.program = run.quantise(deployment, self.log_mel(noise), "minmax")
        x = self.quantised(noise[:2])
        files = c_library.build(self.program, self.classes, {"a": "b"})
        files |= c_features.build(self.values, self.n_samples)
        files |= c_library.test_vector(x, self.logits(x))
        self.library, self.build = folder / "asc_int8", folder / "build"
        self.library.mkdir()
        self.build.mkdir()
        for name, content in files.items():
            (self.library / name).write_bytes(content)

    def make(self, *targets):
        """Output of make."""
        command = ["make", "-C", EXAMPLE, f"LIBRARY={self.library}", f"BUILD={self.build}", STRICT]
        done = subprocess.run([*command, *targets], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @functools.cached_property
    def _compute(self):
        return jax.jit(lambda x: features.log_mel(x, **self.values))

    @functools.cached_property
    def _simulator(self):
        return simulate.simulator(self.program)

    def log_mel(self, audio):
        return np.asarray(self._compute(audio))

    def quantised(self, audio):
        return np.asarray(simulate.quantise(self.program.input, self.log_mel(audio)))

    def logits(self, x):
        return np.asarray(self._simulator(x)).reshape(len(x), -1)


@pytest.fixture(scope="module")
def tools():
    if c_library.compiler() is None or shutil.which("make") is None:
        pytest.skip("no C compiler, or no make, here")


@pytest.fixture(scope="module")
def built(tools, tmp_path_factory):
    return Built(tmp_path_factory.mktemp("small"), short_config())


def clips_of_16_bits(n_clips, n_samples, seed=2):
    audio = check.synthetic_noise(np.random.default_rng(seed), n_clips, n_samples)
    return np.rint(audio * 32_768).clip(-32_768, 32_767).astype("<i2")


def write_wav(path, samples, rate=32_000, n_channels=1):
    with wave.open(str(path), "wb") as file:
        file.setparams((n_channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path


def classified(program, path):
    """Lines of (start, {class: percent}) that the program prints."""
    done = subprocess.run([program, path], capture_output=True, text=True, check=True)
    lines = []
    for line in done.stdout.splitlines():
        head, *cells = line.replace(" s  ", "   ", 1).split("  ")
        pairs = [cell.rsplit(" ", 2)[:2] for cell in cells if cell.endswith("%")]
        lines.append((line.split()[0], {name.strip(): float(p) for name, p in pairs}))
    return lines


@pytest.mark.parametrize("n_samples", [12_000, 32_000, 66_000, 80_000])
def test_wav_file_gets_the_classes_of_python(built, tmp_path, n_samples):
    built.make("all")
    samples = clips_of_16_bits(1, n_samples)[0]
    starts = [0, 32_000, n_samples - 32_000][
        : {12_000: 1, 32_000: 1, 66_000: 2, 80_000: 3}[n_samples]
    ]
    padded = np.pad(samples, (0, max(0, 32_000 - n_samples)))
    audio = np.stack([padded[start : start + 32_000] for start in starts]) / np.float32(32_768)
    logits = simulate.dequantise(built.program.output, built.logits(built.quantised(audio)))
    probs = softmax(np.asarray(logits))
    lines = classified(built.build / "classify", write_wav(tmp_path / "x.wav", samples))
    heads = [f"{start / 32_000:.2f}" for start in starts]
    assert [head for head, _ in lines] == [*heads, "mean"]
    for (_, shown), row in zip(lines, [*probs, probs.mean(0)], strict=True):
        expected = dict(zip(built.classes, 100 * row, strict=True))
        assert len(shown) == 3
        for name, percent in shown.items():
            assert percent == pytest.approx(expected[name], abs=0.1)
        assert max(shown, key=shown.get) == built.classes[row.argmax()]


def test_make_without_a_library_says_what_is_missing(tools, tmp_path):
    command = ["make", "-C", EXAMPLE, f"LIBRARY={tmp_path}/none", f"BUILD={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"no library with a front end in {tmp_path}/none: LIBRARY=" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_recording_is_converted_as_predict_cuts_it(built, tmp_path, monkeypatch, capsys):
    soundfile = pytest.importorskip("soundfile")
    noise = 0.1 * np.random.default_rng(3).standard_normal((44_100 * 5 // 2, 2))
    soundfile.write(tmp_path / "x.flac", noise, 44_100)
    main = runpy.run_path(str(EXAMPLE / "clips.py"))["main"]
    flags = ["--workdir", built.library.parent / "run", "--out", tmp_path / "out", "--recording"]
    monkeypatch.setattr("sys.argv", ["clips.py", *map(str, flags), str(tmp_path / "x.flac")])
    main()
    assert "3 clips of 1 s" in capsys.readouterr().out
    written, rate = soundfile.read(tmp_path / "out" / "clips.wav", dtype="float32")
    assert (rate, written.shape) == (32_000, (96_000,))
    mono = noise.mean(1)
    parts = [mono[:44_100], mono[44_100:88_200], mono[-44_100:]]
    expected = features.resample(np.stack(parts).astype(np.float32), 44_100, 32_000).ravel()
    np.testing.assert_allclose(written, expected, atol=5e-5)
    monkeypatch.setattr("sys.argv", ["clips.py", *map(str, flags), str(tmp_path / "no.flac")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.search(r"error: .*no\.flac", capsys.readouterr().err)


def test_library_in_float_gives_the_probabilities_of_predict(built, tmp_path):
    files = c_float.build(built.deployment) | c_features.build(built.values, built.n_samples)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    built.make("all", f"LIBRARY={tmp_path}", f"BUILD={tmp_path}")
    samples = clips_of_16_bits(1, built.n_samples)
    audio = samples / np.float32(32_768)
    logits = built.deployment.apply(built.deployment.variables, built.log_mel(audio))
    expected = dict(zip(built.classes, 100 * softmax(np.asarray(logits))[0], strict=True))
    lines = classified(tmp_path / "classify", write_wav(tmp_path / "x.wav", samples[0]))
    for name, percent in lines[0][1].items():
        assert percent == pytest.approx(expected[name], abs=0.06)  # a digit is printed
    built.make("all", f"BUILD={tmp_path}")  # another library is not taken for this one
    built.make("all")
    programs = [
        classified(folder / "classify", tmp_path / "x.wav") for folder in (tmp_path, built.build)
    ]
    assert programs[0] == programs[1] != lines


def test_other_wav_files_are_rejected_in_one_line(built, tmp_path):
    built.make("all")
    samples = clips_of_16_bits(1, 32_000)[0]
    stereo = write_wav(tmp_path / "stereo.wav", samples, n_channels=2)
    slow = write_wav(tmp_path / "slow.wav", samples, rate=44_100)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(write_wav(tmp_path / "whole.wav", samples).read_bytes()[:-100])
    text = tmp_path / "text.wav"
    text.write_text("no sound\n" * 10)
    for path, message in (
        (stereo, "2 channels, 32000 Hz, 16 bits; expected 1 channel, 32000 Hz, 16 bits"),
        (slow, "1 channels, 44100 Hz"),
        (cut, "ends before its header says"),
        (text, "is no wav file"),
        (tmp_path / "none.wav", "cannot read"),
    ):
        command = [built.build / "classify", path]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def emulate_and_compare(built, n_clips, seed=2):
    """Run clips on the emulated chip and here, and compare both with the program in JAX."""
    for tool in ARM:
        if shutil.which(tool) is None:
            pytest.skip(
                f"no {tool} here: apt-get install gcc-arm-none-eabi "
                "libnewlib-arm-none-eabi qemu-system-arm"
            )
    samples = clips_of_16_bits(n_clips, built.n_samples, seed)
    (built.build / "samples.s16").write_bytes(samples.tobytes())
    text = built.make("compare")
    assert text.count("test vector: 2 clips OK") == 2
    assert text.count(f"samples.s16: {n_clips} clips") == 2
    assert "the same bits on the computer and on the chip" in text
    assert "the network: " in text
    read = [
        np.fromfile(built.build / "chip" / name, np.int8)
        for name in ("log_mels.int8", "logits.int8")
    ]
    log_mels = read[0].reshape(n_clips, *built.program.input.shape)
    np.testing.assert_array_equal(read[1].reshape(n_clips, -1), built.logits(log_mels))
    gap = np.abs(log_mels.astype(int) - built.quantised(samples / np.float32(32_768)))
    assert (gap == 0).mean() >= c_features.MIN_SAME
    assert gap.max() <= 1


def test_emulated_chip_computes_the_bits_of_the_computer_and_of_jax(built):
    emulate_and_compare(built, 4)
    text = built.make("chip")
    header = (built.library / "asc_model.h").read_text()
    arena = int(re.search(r"ASC_ARENA_BYTES (\d+)", header)[1])
    flash, _, bss = map(int, re.search(r"^ *(\d+)\t *(\d+)\t *(\d+)", text, re.M).groups())
    state = c_features.n_bytes(built.values)["ram"]
    assert arena + state < bss < arena + state + 8_192
    assert flash < 4 * 2**20


@pytest.fixture(scope="module", params=["demo", "teachers.cp_mobile_126952"])
def whole(request, tools, tmp_path_factory):
    config = importlib.import_module(f"configs.{request.param}").get_config()
    return Built(tmp_path_factory.mktemp("whole"), config)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("quarter", range(4))
def test_emulated_chip_computes_64_clips_of_the_whole_network(whole, quarter):
    emulate_and_compare(whole, 16, seed=quarter)
