"""A split that lies on the accelerators for a whole run, so that a step needs only row numbers.

A CPU is one, and its memory the machine's.

    clips, held = place_clips(clips, "auto")

Batches of `clips` then hold `row` in place of the waveforms, and `steps.train_steps` gathers
these from `held`. Training is the same bit for bit as with streamed clips, except in int16.
"""

import jax
import numpy as np

from asc_jax.data.clips import Clips
from asc_jax.errors import UserError
from asc_jax.machine import replicas
from asc_jax.machine.memory import aligned_zeros
from asc_jax.machine.resources import free_memory

SHARE = 0.5  # of an accelerator's free memory that "auto" may fill
CPU_SHARE = 0.25  # of the machine's, which is not there for us alone
STEPS = 128  # in a call: it takes the host milliseconds, as many as two steps take a GPU
CPU_CALLS = 2  # calls in one, on a CPU: each takes memory of the system; more gain no more
READ_CLIPS = 256  # clips read at a time
INT16_PEAK = 32_767


def place_clips(clips: Clips, choice: str) -> tuple[Clips, dict | None]:
    """Put clips on the accelerators, if they are to lie there.

    Args:
      clips: training clips.
      choice: "float32"; "int16", in half the memory, each sample rounded by at most 2⁻¹⁶ of its
        clip's peak; "off"; or "auto": float32 if the split fills at most SHARE of the free
        memory, CPU_SHARE on a CPU. Several processes on CPUs, which may be of one machine,
        stream it; so does one whose memory turns out to be less.

    Returns:
      Clips to take batches from, and what `steps.train_steps` gathers from: every numeric column
      of the clips, `[replica, n, …]`, in int16 also `audio_scale` `[replica, n]`, the value of
      one unit. None: the clips are streamed. In place of the columns, batches of resident clips
      have `row` `[b]` int32, a clip's number + 1, 0 where they fill up.

    Raises:
      UserError: the clips do not fit.
    """
    if choice == "off" or (choice == "auto" and not _fits(clips)):
        return clips, None
    try:
        arrays, filenames = _read_all(clips, half=choice == "int16")
        held = _share(arrays)
    except MemoryError as error:
        if choice == "auto":  # a limit that nothing told of
            return clips, None
        raise UserError(
            f"{len(clips):,} clips do not fit the memory: --config.train.resident=off streams them"
        ) from error

    def read(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"row": numbers.astype(np.int32) + 1, "filename": filenames[numbers]}

    return Clips(len(clips), read, identity=clips.identity), held


def resident_steps(at_least: int, steps_per_epoch: int) -> int:
    """Return the number of steps of a call on resident clips, which need no memory for batches.

    On a CPU steps take long, and so become at most twice as many: a signal waits for a call.
    """
    steps = CPU_CALLS * at_least if jax.default_backend() == "cpu" else STEPS
    return max(at_least, min(steps, steps_per_epoch))


def to_int16(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[n, n_samples]` float32 → int16 of the same shape, and `[n]` float32, the value of 1."""
    peak = np.max(np.abs(audio), axis=1)
    scale = np.where(peak > 0, peak, 1).astype(np.float32) / np.float32(INT16_PEAK)
    return np.rint(audio / scale[:, None]).astype(np.int16), scale


def _read_all(clips: Clips, *, half: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns of all clips in stored order, and their names."""
    arrays, filenames, start = {}, [], 0
    for batch in clips.in_order(READ_CLIPS):
        n = int(batch["mask"].sum())
        columns = {
            name: rows[:n]
            for name, rows in batch.items()
            if rows.dtype.kind in "biuf" and name != "mask"
        }
        if half:
            columns["audio"], columns["audio_scale"] = to_int16(columns["audio"])
        for name, rows in columns.items():
            if name not in arrays:
                arrays[name] = aligned_zeros((len(clips), *rows.shape[1:]), rows.dtype)
            arrays[name][start : start + n] = rows
        filenames += batch["filename"][:n].tolist()
        start += n
    return arrays, np.array(filenames, dtype=str)


def _share(arrays: dict) -> dict:
    try:
        return replicas.share(arrays)
    except RuntimeError as error:  # how XLA says that there is no room
        raise MemoryError from error


def _fits(clips: Clips) -> bool:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        room = CPU_SHARE * free_memory() if jax.process_count() == 1 else 0
    else:
        memory = device.memory_stats() or {}
        room = SHARE * (memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0))
    columns = next(clips.in_order(1)).values()
    n_bytes = sum(rows.nbytes for rows in columns if rows.dtype.kind in "biuf")
    return room > 0 and len(clips) * n_bytes <= room
