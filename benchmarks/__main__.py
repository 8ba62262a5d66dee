"""Time ours against PyTorch and others, side by side on this machine.

    python -m benchmarks                       every part (an hour); the picture and tables, too:
    python -m benchmarks --png P --markdown M --json J
    python -m benchmarks a b --quick           two parts, one batch size, few repeats
    python -m benchmarks m --networks cnn_gru --batches 256     one of the other networks

Parts are letters: see `benchmarks/parts.py`; j and k, for accelerators, run unasked on one only.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence

from absl import flags

from asc_jax.cli import run
from asc_jax.errors import UserError
from benchmarks import inputs, machine, report
from benchmarks.contest import Contest
from benchmarks.contestants import CONTESTANTS
from benchmarks.parts import PARTS, rows

ACCELERATOR = ("j", "k")


def main(argv: Sequence[str]) -> None:
    """Measure what was asked for and write it down."""
    given = flags.FLAGS
    parts, size = _parts(argv[1:]), _size(given)
    _check(given)
    facts, results = machine.describe(given.threads), []
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks_") as scratch,
        Contest(size, scratch, threads=given.threads, only=given.contestants) as contest,
    ):
        about = contest.about()
        facts["accelerator"] = f"{about['backend']} ({about['kind']})"
        on_cpu = about["backend"] == "cpu"
        for part in parts or [p for p in PARTS if p not in ACCELERATOR or not on_cpu]:
            for row in rows(part, size, on_cpu=on_cpu):
                entry = dataclasses.asdict(row) | {"results": contest.measure(row)}
                results.append(entry)
                print(report.line(entry), flush=True)
        left_out = contest.notes
    facts["load_at_end"] = list(os.getloadavg())
    whole = {
        "machine": facts,
        "size": dataclasses.asdict(size),
        "left_out": left_out,
        "rows": results,
        "accelerator": _summary(results, size),
    }
    print("\n" + report.markdown(whole))
    report.write(whole, json_path=given.json, png_path=given.png, markdown_path=given.markdown)


def _parts(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in PARTS:
            known = ", ".join(f"{letter} ({title})" for letter, (title, _) in PARTS.items())
            raise UserError(f"unknown part {name!r}; known: {known}")
    return list(names)


def _size(given) -> inputs.Size:
    """The size that the flags ask for."""
    size = inputs.SIZES["toy" if given.toy else "quick" if given.quick else "full"]
    changes = {}
    for name, numbers in (("batches", given.batches), ("seeds", given.seeds)):
        try:
            changes[name] = tuple(map(int, numbers)) or getattr(size, name)
        except ValueError as error:
            raise UserError(f"--{name} {','.join(numbers)}: expected numbers") from error
        if min(changes[name]) < 1:
            raise UserError(f"--{name}: every one must be at least 1")
    changes["networks"] = tuple(given.networks) or size.networks
    for name in changes["networks"]:
        if name not in inputs.OTHER_NETWORKS:
            known = ", ".join(inputs.OTHER_NETWORKS)
            raise UserError(f"unknown network {name!r}; known to part m: {known}")
    if given.repeats is not None:
        changes["repeats"] = given.repeats
    return dataclasses.replace(size, **changes)


def _check(given) -> None:
    n_cores = len(os.sched_getaffinity(0))
    if given.threads > n_cores:
        raise UserError(f"--threads={given.threads}: there are {n_cores} cores to pin them to")
    for name in given.contestants:
        if name not in CONTESTANTS:
            raise UserError(f"unknown contestant {name!r}; known: {', '.join(CONTESTANTS)}")


def _summary(results, size) -> dict:
    if not any(row["part"] == "j" for row in results):
        return {}
    from benchmarks import roofline  # imports JAX, which the parent otherwise does without

    return roofline.summarise(results, inputs.make_config(size))


if __name__ == "__main__":
    flags.DEFINE_bool("quick", False, "One batch size, 3 repeats: an idea, in minutes.")
    flags.DEFINE_bool("toy", False, "A toy network, 2 repeats: whether it runs, not how fast.")
    flags.DEFINE_list("batches", [], "Training batches, e.g. 78,130,256, the default.")
    flags.DEFINE_list("networks", [], "Of part m, names of benchmarks/inputs.py; default: all.")
    flags.DEFINE_list("seeds", [], "Models trained in one program, part j, e.g. 1,2,4,8,16.")
    flags.DEFINE_integer("repeats", None, "Rounds after the warm-up, 7.", lower_bound=1)
    threads = min(2, len(os.sched_getaffinity(0)))
    flags.DEFINE_integer("threads", threads, "Cores that each contestant is pinned to.", 1)
    flags.DEFINE_list("contestants", [], "Only these beside ours; default: all.")
    flags.DEFINE_string("json", "", "File to write everything to.")
    flags.DEFINE_string("png", "", "Picture of the ratios to write.")
    flags.DEFINE_string("markdown", "", "File to write the printed tables to.")
    flags.FLAGS.set_gnu_getopt()  # parts and flags in any order
    run(main)
