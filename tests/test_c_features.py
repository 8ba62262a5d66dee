"""The front end in C: the log-mel of `features.log_mel`, whole and streamed."""

import importlib
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest
from small import small_clips
from test_c_library import SANITISED, STRICT, builds

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.export import check
from asc_jax.operations.program import Tensor
from asc_jax.quantisation import c_features, c_library

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in (".", "baseline", "students", "teachers")
    for path in (ROOT / "configs" / folder).glob("*.py")
)
FUSED = "-ffp-contract=off"


@pytest.fixture(scope="module")
def compiler():
    path = c_library.compiler()
    if path is None:
        pytest.skip("no C compiler here")
    return path


def features_of(name, **changes):
    return importlib.import_module(name).get_config().features.to_dict() | changes


def files_of(values, n_samples):
    """The files of a front end, with what it needs of a network's header."""
    n_frames = features.n_frames(n_samples, **values)
    sizes = f"#define ASC_N_MELS {values['n_mels']}\n#define ASC_N_FRAMES {n_frames}\n"
    return c_features.build(values, n_samples) | {"asc_model.h": sizes.encode()}


def sounds(n_samples, n_clips=8):
    """Noise of varied colour and loudness, a tone, and clips of 16 bits among them."""
    audio = check.synthetic_noise(np.random.default_rng(0), n_clips, n_samples)
    audio[0] = 0.9 * np.sin(0.1 * np.arange(n_samples))
    audio[1] += 0.5
    audio[::2] = np.rint(audio[::2] * 32_768) / 32_768
    return audio


def in_python(values, audio, dtype):
    with jax.enable_x64(dtype is np.float64):
        compute = jax.jit(lambda x: features.log_mel(x, **values))
        return np.asarray(compute(audio.astype(dtype)))[..., 0]


def in_c(values, audio, compiler, flags=c_features.FLAGS):
    shape = values["n_mels"], features.n_frames(audio.shape[1], **values)
    with c_features.compiled(files_of(values, audio.shape[1]), compiler, shape, flags) as compute:
        return compute(audio)


@pytest.mark.parametrize(
    "name", ["configs.base", "configs.students.cnn_gru", "configs.students.cp_mobile_12310"]
)
def test_c_is_as_exact_as_python(compiler, name):
    """Measured: 0.88 to 0.98 of Python's error."""
    values = features_of(name)
    audio = sounds(10_000)
    exact = in_python(values, audio, np.float64)
    ours, theirs = in_python(values, audio, np.float32), in_c(values, audio, compiler)
    noise = slice(1, None)  # the tone's quiet bands have some thousand times the error of others

    def error(log_mel):
        return np.sqrt(np.mean((log_mel - exact)[noise] ** 2))

    assert error(theirs) <= error(ours)
    np.testing.assert_allclose(theirs[0], exact[0], atol=2 * np.abs(ours[0] - exact[0]).max())
    scale = np.ptp(exact) / 255
    gap = np.abs(np.rint(theirs / scale) - np.rint(ours / scale))
    assert (gap == 0).mean() >= c_features.MIN_SAME
    assert gap.max() <= 1


SMALL = {"n_fft": 256, "win_length": 256, "hop_length": 100, "n_mels": 8}
CASES = {  # of lengths that leave something at the end
    "window as long as the transform": {},
    "shorter, odd window": {"win_length": 191},
    "pre-emphasis, normalised": {
        **{"pre_emphasis": 0.97, "norm_mean": -4.5, "norm_std": 5.0},
        **{"window": "hann_symmetric", "mel_scale": "kaldi", "f_max": 15_500.0},
    },
    "samples between windows": {"win_length": 64, "hop_length": 170},
    "a frame at the very end": {"hop_length": 125},
    "bands without a bin": {"n_mels": 60},
    "smallest transform": {"n_fft": 8, "win_length": 8, "hop_length": 3, "n_mels": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_frames_and_ends_are_those_of_python(compiler, tmp_path, case):
    values = features_of("configs.base", **(SMALL | CASES[case]))
    audio = sounds(1_000)
    flags = (*STRICT, FUSED)
    flags += SANITISED if builds(compiler, tmp_path, *SANITISED) else ()
    computed = in_c(values, audio, compiler, flags)
    np.testing.assert_allclose(computed, in_python(values, audio, np.float64), atol=2e-3)


# Reads a clip of 16 bits and writes its columns: pushes 1, 2, 3, … samples at a time, or whole.
STREAM = """\
#include <stdio.h>
#include "asc_features.h"
static struct asc_features state;
static int16_t clip[ASC_N_SAMPLES];
static float samples[ASC_N_SAMPLES], column[ASC_N_MELS];
static void columns(void)
{
    while (asc_features_column(&state, column))
        fwrite(column, sizeof column, 1, stdout);
}
int main(int argc, char **argv)
{
    int32_t i, at = 0, n = 0, round;
    (void)argv;
    if (fread(clip, sizeof clip, 1, stdin) != 1)
        return 1;
    for (i = 0; i < ASC_N_SAMPLES; i++)
        samples[i] = (float)clip[i] / 32768.0f;
    for (round = 0; round < 2; round++) { /* a second clip has nothing of the first */
        asc_features_start(&state);
        for (at = 0; at < ASC_N_SAMPLES;) {
            n = argc > 1 ? n % 301 + 1 : ASC_N_SAMPLES;
            if (n > ASC_N_SAMPLES - at)
                n = ASC_N_SAMPLES - at;
            at += n % 2 ? asc_features_push(&state, samples + at, n)
                        : asc_features_push_int16(&state, clip + at, n);
            columns();
        }
        asc_features_end(&state);
        columns();
        columns();
    }
    return 0;
}
"""


@pytest.mark.parametrize("case", CASES)
def test_stream_has_the_bits_of_the_whole_clip(compiler, tmp_path, case):
    values = features_of("configs.base", **(SMALL | CASES[case]))
    clip = np.rint(sounds(1_000)[2] * 32_768).astype(np.int16)
    for name, content in files_of(values, len(clip)).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "stream.c").write_text(STREAM)
    command = [compiler, *STRICT, "-O2", FUSED, "stream.c", "asc_features.c", "-o", "stream"]
    subprocess.run(command, cwd=tmp_path, check=True)
    whole = in_c(values, (clip / np.float32(32_768))[None], compiler)[0].T
    for words in ([], ["in parts"]):
        command = [tmp_path / "stream", *words]
        done = subprocess.run(command, input=clip.tobytes(), capture_output=True, check=True)
        columns = np.frombuffer(done.stdout, np.float32).reshape(2, *whole.shape)
        np.testing.assert_array_equal(columns, np.stack([whole, whole]))


def test_clip_too_short_to_reflect_has_no_columns(compiler, tmp_path):
    values = features_of("configs.base", **SMALL)
    files = files_of(values, 128)
    with c_features.compiled(files, compiler, (8, 2)) as compute:
        assert not compute(np.ones((1, 128), np.float32)).any()


def test_front_end_needs_neither_heap_nor_libm(compiler, tmp_path):
    for name, content in files_of(features_of("configs.base"), 32_000).items():
        (tmp_path / name).write_bytes(content)
    command = [compiler, *STRICT, "-O2", FUSED, "-c", "asc_features.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    listed = subprocess.run(["nm", "asc_features.o"], cwd=tmp_path, capture_output=True, text=True)
    names = {line.split()[-1].lstrip("_") for line in listed.stdout.splitlines() if " U " in line}
    assert names <= {"stack_chk_fail", "memset", "GLOBAL_OFFSET_TABLE_"}


@pytest.mark.parametrize("name", CONFIGS)
def test_front_end_of_every_config_is_written(name):
    values = features_of(name)
    files = c_features.build(values, values["sample_rate"])
    assert b"static const float window" in files["asc_features_tables.h"]


@pytest.mark.parametrize("n_fft", [4095, 4000, 4, 131_072])
def test_other_transforms_are_rejected_by_name(n_fft):
    values = features_of("configs.base", n_fft=n_fft, win_length=4)
    with pytest.raises(UserError, match=f"config.features.n_fft is {n_fft}, and the front end"):
        c_features.build(values, 32_000)


def test_other_front_end_is_not_written(compiler, monkeypatch):
    values, true = features_of("configs.base"), c_features.build
    shape = values["n_mels"], features.n_frames(32_000, **values)
    library = {"asc_model.h": files_of(values, 32_000)["asc_model.h"]}
    tensor = Tensor("log_mel", (*shape, 1), np.float32(0.07), 20)
    files, lines = c_features.checked(values, library, tensor, small_clips(4))
    assert "asc_features.c" in files
    assert "front end: 32,000 Hz, 33,680 bytes of tables, 28,704 bytes for a stream" in lines[0]

    def wrong(*args):
        files = true(*args)
        code = files["asc_features.c"].replace(b"0.693145751953125f", b"0.7f")
        return files | {"asc_features.c": code}

    monkeypatch.setattr(c_features, "build", wrong)
    with pytest.raises(
        UserError, match="gives other int8 than Python's for .* Nothing was written"
    ):
        c_features.checked(values, library, tensor, small_clips(4))
    monkeypatch.undo()
    files, lines = c_features.checked(values | {"n_fft": 4095}, library, tensor, small_clips(4))
    assert files == {}
    assert "without a front end in C: config.features.n_fft is 4095" in lines[0]
