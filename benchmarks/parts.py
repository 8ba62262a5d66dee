"""What is measured: each part is a list of rows, a row one job for several contestants."""

import dataclasses
from collections.abc import Iterator, Mapping

from benchmarks.contestants import ON_GPU, OURS, TRAINERS
from benchmarks.inputs import SPLITS, Size

RUNTIMES = ("onnx", "onnx_tuned", "onnx_of_torch", "litert")
REPLICAS = ("ours_1_replicas", "ours_2_replicas", "ours_4_replicas")
BEST_PEER = "torch_channels_last_tuned"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table before it is measured.

    part, what: its names. job: a key of the modules' JOBS. spec: what the job is told. unit:
    "clips", "steps", "bytes" (of work: a rate is shown), "s" or "MB". fresh: "" for long-lived
    processes; "cold start", "cached start", "cold compile", "cached compile" or "memory" for a
    new process each time; "cold run" and "cached run" for one, once. needs_data: scenes on disk.
    """

    part: str
    what: str
    job: str
    spec: Mapping = dataclasses.field(default_factory=dict)
    contestants: tuple[str, ...] = TRAINERS
    unit: str = "clips"
    fresh: str = ""
    needs_data: bool = False


def rows(part: str, size: Size, *, on_cpu: bool = True) -> list[Row]:
    """The rows of a part, by its letter; on a GPU without whom only a CPU's memory matters to."""
    found = list(PARTS[part][1](size))
    if on_cpu:
        return found
    kept = {*ON_GPU, *REPLICAS}
    return [
        dataclasses.replace(row, contestants=tuple(n for n in row.contestants if n in kept))
        for row in found
    ]


def _model_step(size: Size) -> Iterator[Row]:
    for batch in size.batches:
        yield Row("a", f"model step, batch {batch}", "model_step", {"batch": batch})


def _whole_step(size: Size) -> Iterator[Row]:
    for batch in size.batches:
        yield Row("b", f"step from waveform, batch {batch}", "whole_step", {"batch": batch})


def _epoch(size: Size) -> Iterator[Row]:
    yield Row("c", "preparation, once", "build", contestants=(OURS,), needs_data=True)
    batch = size.batches[0]
    for resident, how in (("float32", "read once in ten"), ("off", "read in each")):
        spec = {"batch": batch, "split": SPLITS[-1], "resident": resident}
        what = f"epoch from disk, batch {batch}, {how}"
        yield Row("c", what, "epoch", spec, needs_data=True)


def _inference(size: Size) -> Iterator[Row]:
    for batch in (size.bulk, 1):
        clips = f"{batch} clips" if batch > 1 else "one clip"
        spec = {"batch": batch, "source": "log_mel"}
        yield Row("d", f"log-mel → logits, {clips}", "inference", spec, (*TRAINERS, *RUNTIMES))
        names = (*TRAINERS, "onnx", "torch_then_onnx", "torch_then_onnx_tuned", "litert")
        spec = {"batch": batch, "source": "waveform"}
        yield Row("d", f"waveform → logits, {clips}", "inference", spec, names)


def _features(size: Size) -> Iterator[Row]:
    batch = size.batches[0]
    names = (OURS, "torch", "torch_tuned")
    yield Row("e", f"waveform → log-mel, batch {batch}", "features", {"batch": batch}, names)


def _start(size: Size) -> Iterator[Row]:
    names = (OURS, "torch", "torch_compile")
    spec = {"batch": size.batches[0], "n_steps": 1}
    for fresh, what in (
        ("cold start", "process start to the end of the first step, no cache"),
        ("cached start", "the same, compiled before"),
        ("cold compile", "first step less second, no cache"),
        ("cached compile", "the same, compiled before"),
    ):
        yield Row("f", what, "whole_step", spec, names, "s", fresh)


def _memory(size: Size) -> Iterator[Row]:
    batch = size.batches[0]
    what = f"peak of a process, step from waveform, batch {batch}"
    yield Row("g", what, "whole_step", {"batch": batch}, unit="MB", fresh="memory")


def _growth(size: Size) -> Iterator[Row]:
    some = (OURS, "torch", BEST_PEER)
    for batch in size.growth:
        what = f"step from waveform, batch {batch}"
        yield Row("h", what, "whole_step", {"batch": batch}, some)
    # Splits of one folder, so that it is written and built once.
    yield Row("h", "preparation, once", "build", contestants=(OURS,), needs_data=True)
    for split in SPLITS:
        spec = {"batch": size.batches[0], "split": split, "resident": "off"}
        yield Row("h", f"epoch from disk, {split}", "epoch", spec, some, needs_data=True)
    batch = size.batches[0]
    yield Row("h", f"replicas, batch {batch}", "whole_step", {"batch": batch}, REPLICAS)


def _counter(size: Size) -> Iterator[Row]:
    yield Row("i", "count the network's MACs", "count", contestants=(OURS,), unit="s")


def _accelerator(size: Size) -> Iterator[Row]:
    yield Row("j", "copy", "copy", {"toy": size.toy}, (OURS,), "bytes")
    for dtype in ("float32", "bfloat16"):
        for batch in size.batches:
            spec = {"batch": batch, "dtype": dtype}
            yield Row("j", f"resident step, {dtype}, batch {batch}", "resident_step", spec, ON_GPU)
        for n in size.seeds:
            spec = {"batch": size.batches[0], "dtype": dtype, "n_seeds": n}
            what = f"{n} seeds in one program, {dtype}, batch {size.batches[0]}"
            yield Row("j", what, "resident_step", spec, (OURS,))


def _whole_run(size: Size) -> Iterator[Row]:
    clips, epochs = size.run_clips, size.run_epochs
    for dtype in ("float32", "bfloat16"):
        spec = {"dtype": dtype, "n_clips": clips, "n_epochs": epochs}
        what = f"{epochs} epochs of {clips:,} clips, {dtype}"
        for fresh, when in (("cold run", "compiling"), ("cached run", "compiled before")):
            yield Row("k", f"{what}, {when}", "whole_run", spec, (OURS,), "s", fresh)


def _large_set(size: Size) -> Iterator[Row]:
    for n in size.build_clips:
        what = f"preparation of {n:,} clips"
        yield Row("l", what, "build_many", {"n_clips": n}, (OURS,), needs_data=True)


def _other_networks(size: Size) -> Iterator[Row]:
    names = (OURS, "torch", "torch_tuned", BEST_PEER, "torch_compile_tuned")
    for network in size.networks:
        for batch in size.batches if network == "tf_sepnet" else size.batches[-1:]:
            spec = {"batch": batch, "network": network}
            yield Row("m", f"{network} step, batch {batch}", "model_step", spec, names)


PARTS = {
    "a": ("Training step, network only", _model_step),
    "b": ("Training step from the waveform", _whole_step),
    "c": ("An epoch from disk", _epoch),
    "d": ("Inference", _inference),
    "e": ("Features", _features),
    "f": ("Start and compilation", _start),
    "g": ("Memory", _memory),
    "h": ("Growth with batch, data and replicas", _growth),
    "i": ("The complexity counter", _counter),
    "j": ("An accelerator: resident data, number formats, seeds", _accelerator),
    "k": ("A whole run from clips in memory", _whole_run),
    "l": ("Preparation of a large set", _large_set),
    "m": ("Training step of other networks, network only", _other_networks),
}
