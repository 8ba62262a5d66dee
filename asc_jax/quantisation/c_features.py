"""Write the front end of a network in C99: `asc_features.h`, `.c` and its tables.

`asc_features.c` in `c_sources/` is the same for every network, and `asc_features.h` there is a
template. The tables are made here: window, sines, and the nonzero weights of the mel filterbank.
"""

import contextlib
import pathlib
import string
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from asc_jax import features as front_end
from asc_jax.errors import UserError
from asc_jax.export.c_header import comment
from asc_jax.features import LOG_OFFSET, filters
from asc_jax.operations import simulate
from asc_jax.operations.program import Tensor
from asc_jax.quantisation import c_library

SOURCES = c_library.SOURCES
FRONT_END = ("asc_features.c",)  # what an application compiles
COPIED = ("asc_features.c", "log_mel.c")
N_CLIPS = 16  # that the front end in C is compared on
MIN_SAME = 0.999  # fraction of int8 values that are those of Python; the others are one step off
# One rounding for each operation: a compiler may not fuse two, for the same bits on every machine.
FLAGS = (*c_library.FLAGS, "-ffp-contract=off")
MIN_N_FFT, MAX_N_FFT = 8, 65_536
PER_LINE = {"float32": 8, "uint16": 16}
C_TYPES = {"float32": "float", "uint16": "uint16_t"}

Files = dict[str, bytes]


def build(features: Mapping, n_samples: int) -> Files:
    """Return the files of the front end by name.

    Args:
      features: the keywords of `features.log_mel`.
      n_samples: of a clip.

    Raises:
      UserError: the program in C cannot compute with a value; it is named.
    """
    require_rules(features)
    shown = ", ".join(f"{name} {value}" for name, value in sorted(dict(features).items()))
    template = string.Template((SOURCES / "asc_features.h").read_text("utf-8"))
    header = template.substitute(
        front_end="\n".join(textwrap.wrap(comment(shown), 95, subsequent_indent="   ")),
        sample_rate=features["sample_rate"],
        n_samples=n_samples,
        hop_length=features["hop_length"],
        win_length=features["win_length"],
        n_fft=features["n_fft"],
    )
    files = {name: (SOURCES / name).read_text("utf-8") for name in COPIED}
    files |= {"asc_features.h": header, "asc_features_tables.h": "\n".join(_tables(features))}
    return {name: text.encode() for name, text in files.items()}


def checked(
    features: Mapping, library: Mapping[str, bytes], log_mel: Tensor, clips
) -> tuple[Files, list[str]]:
    """Return the files of the front end, compared with Python's if there is a compiler.

    Args:
      features: the keywords of `features.log_mel`.
      library: the files of the network.
      log_mel: the input of the network.
      clips: to compare on, as `data.clips` opens them.

    Returns:
      The files, none if the program in C cannot compute this front end; and lines to print.

    Raises:
      UserError: the front end in C computes another log-mel than Python's.
    """
    spread = np.unique(np.linspace(0, len(clips) - 1, N_CLIPS).astype(int))
    batches = [batch["audio"][batch["mask"]] for batch in clips.batches(spread, N_CLIPS)]
    audio = np.concatenate(batches)
    try:
        files = build(features, audio.shape[1])
    except UserError as error:
        return {}, [f"without a front end in C: {error}"]
    size, path = n_bytes(features), c_library.compiler()
    line = (
        f"front end: {features['sample_rate']:,} Hz, {size['flash']:,} bytes of tables, "
        f"{size['ram']:,} bytes for a stream"
    )
    if path is None:
        return files, [line]
    with compiled({**library, **files}, path, log_mel.shape[:2]) as compute:
        theirs = np.asarray(simulate.quantise(log_mel, compute(audio)), np.int32)
    ours = jax.jit(lambda x: front_end.log_mel(x, **features))(audio)[..., 0]
    gap = np.abs(theirs - np.asarray(simulate.quantise(log_mel, ours), np.int32))
    if (gap == 0).mean() < MIN_SAME or gap.max() > 1:
        raise UserError(
            f"the front end in C, compiled by {path}, gives other int8 than Python's for "
            f"{100 * (gap > 0).mean():.2g} % of the log-mel, by at most {gap.max()} steps. Nothing "
            "was written; try another compiler"
        )
    n_other = f" but for {(gap > 0).sum():,}, one step off" if gap.any() else ""
    return files, [f"{line}; {gap.size:,} int8 values are those of Python{n_other}"]


def require_rules(features: Mapping) -> None:
    """Check that the program in C can compute a front end.

    Raises:
      UserError: it cannot; the value is named.
    """
    n_fft = features["n_fft"]
    if n_fft.bit_count() != 1 or not MIN_N_FFT <= n_fft <= MAX_N_FFT:
        raise UserError(
            f"config.features.n_fft is {n_fft}, and the front end in C transforms powers of two "
            f"from {MIN_N_FFT} to {MAX_N_FFT:,} only: train with such an n_fft to have one"
        )


def n_bytes(features: Mapping) -> dict[str, int]:
    """Return the bytes of the constants, "flash", and those of a stream's state, "ram"."""
    n_fft, win_length = features["n_fft"], features["win_length"]
    flash = sum(array.nbytes for array in _arrays(features).values())
    return {"flash": flash, "ram": 4 * (n_fft + win_length + 1 + 7)}


@contextlib.contextmanager
def compiled(
    files: Mapping[str, bytes], path: str, shape: Sequence[int], flags: Sequence[str] = FLAGS
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Compile the front end and give it as a function: `[b, n_samples]` → `[b, *shape]` float32.

    Args:
      files: of the library, the network's and the front end's.
      path: of the compiler.
      shape: of a clip's log-mel.
      flags: for the compiler.

    Raises:
      UserError: it does not compile the files, or the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = c_library.compile_program(
            files, path, flags, ("log_mel.c", *FRONT_END), pathlib.Path(folder)
        )

        def run(audio: np.ndarray) -> np.ndarray:
            done = subprocess.run(
                [program], input=audio.astype(np.float32).tobytes(), capture_output=True
            )
            if done.returncode != 0:
                raise UserError(f"the front end in C stopped with the status {done.returncode}")
            return np.frombuffer(done.stdout, np.float32).reshape(len(audio), *shape)

        yield run


def _arrays(features: Mapping) -> dict[str, np.ndarray]:
    n_fft = features["n_fft"]
    names = ("mel_scale", "n_fft", "n_mels", "sample_rate", "f_min", "f_max")
    bank = filters.filterbank(*(features[name] for name in names))  # [bin, band]
    bands = [np.flatnonzero(band) for band in bank.T]
    first = np.array([bins[0] if bins.size else 0 for bins in bands], np.uint16)
    last = np.array([bins[-1] if bins.size else -1 for bins in bands])
    weights = [bank[a : b + 1, k] for k, (a, b) in enumerate(zip(first, last, strict=True))]
    return {
        "window": filters.window(features["window"], features["win_length"]),
        "sines": np.sin(2 * np.pi * np.arange(n_fft // 4 + 1) / n_fft).astype(np.float32),
        "mel_first": first,
        "mel_count": np.array([len(each) for each in weights], np.uint16),
        "mel_weights": np.concatenate(weights).astype(np.float32),
    }


def _tables(features: Mapping) -> Iterator[str]:
    yield "/* The tables of asc_features.c, which alone includes this file."
    yield "   sines: of a quarter of a turn. mel_weights: of mel_count[band] bins from"
    yield "   mel_first[band] on, band after band. */"
    numbers = {"log_offset": LOG_OFFSET}
    if features["pre_emphasis"]:
        numbers["pre_emphasis_rest"] = 1 - np.float32(features["pre_emphasis"])
    if (features["norm_mean"], features["norm_std"]) != (0, 1):
        numbers |= {name: features[name] for name in ("norm_mean", "norm_std")}
    for name, value in numbers.items():
        yield f"#define ASC_{name.upper()} ({np.float32(value)!s}f)"
    for name, values in _arrays(features).items():
        kind = values.dtype.name
        yield f"\nstatic const {C_TYPES[kind]} {name}[{values.size}] = {{"
        end = "f" if kind == "float32" else ""
        words, n = [f"{value!s}{end}" for value in values], PER_LINE[kind]
        for start in range(0, len(words), n):
            yield f"    {', '.join(words[start : start + n])},"
        yield "};"
    yield ""
