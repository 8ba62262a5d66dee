"""Print what a network costs, layer by layer, beside the task's limits.

usage: asc-jax complexity (--config FILE [--config.SECTION.KEY=VALUE …] | --workdir RUN) [options]

The table is printed within the budget and over it, whatever config.budget.enforce says: that
value only governs what trains, evaluates or exports. Below it stands what the network and its front
end take on a microcontroller, at int8 and in floating point; docs/quantisation.md has the rules.

examples:
  asc-jax complexity --config splits/5pct.py
  asc-jax complexity --config splits/5pct.py --config.model.width=40 --json
  asc-jax complexity --workdir runs/splits/5pct --png budget.png

exit status: 0 within the budget, 1 over it, 2 wrong input
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from asc_jax.cli import align, reject_words, run
from asc_jax.cli.config_flag import config_name, define_config_flag
from asc_jax.complexity import budget
from asc_jax.complexity.limits import ROLES
from asc_jax.errors import UserError
from asc_jax.evaluation.report.figures import require_png, write_budget_figure
from asc_jax.experiment import with_labels
from asc_jax.models import precision
from asc_jax.models.from_config import log_mel_shape
from asc_jax.quantisation import chip_cost
from asc_jax.training.config_checks import check_values
from asc_jax.training.workdir import run_config

HEADER = ("layer", "output shape", "parameters", "MACs", "share", "bytes", "share")
CHIP_HEADER = ("on a chip, bytes", "flash", "RAM", "input", "RAM is for")
DTYPES = ("int8", *chip_cost.FLOAT_BYTES)


def define_flags() -> None:
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of a trained run, instead of a config")
    flags.DEFINE_boolean("json", False, "Print one JSON object instead of the table")
    flags.DEFINE_string("png", None, "File for a picture, a bar per layer")
    flags.DEFINE_boolean("solve", False, "Also say how far frames, width and expansion can go")


def main(argv: Sequence[str]) -> None:
    """Print what the flags ask for; end the process with 1 if the network is over budget."""
    options = flags.FLAGS
    reject_words(argv[1:])
    if (options.config is None) == (options.workdir is None):
        raise UserError(
            "which network? Either --config or --workdir, for example: "
            "asc-jax complexity --config splits/5pct.py"
        )
    if options.workdir is None:
        name = config_name(options["config"].config_filename)
        config = with_labels(options.config)
    else:
        name, config = run_config.load(options.workdir)
    within = show(name, config, solve=options.solve, json_only=options.json, png=options.png)
    if not within:
        sys.exit(1)


def show(name: str, config, *, solve: bool, json_only: bool, png: str | None) -> bool:
    """Print the table or the JSON object and draw the picture; return True within the budget."""
    check_values(config)
    if png:
        require_png(png)
    rows, totals = budget.examine(config)
    solved = budget.solve(config) if solve else None
    chip = chip_cost.examine(config)
    totals = as_program(totals, chip)
    if json_only:
        print(as_json(name, rows, totals, solved, chip))
    else:
        print(as_text(name, rows, totals, chip, role=config.budget.role))
        if solved:
            print(f"\n{solution_text(config, solved)}")
    if png:
        try:
            write_budget_figure(png, name, rows, totals, note=figure_note(chip))
        except OSError as error:
            raise UserError(f"cannot write {png}: {error.strerror or error}") from error
    return totals["within_budget"]


def as_program(totals: Mapping, chip: Mapping) -> Mapping:
    """Return the totals; stored as int8, with the bytes that `convert` and `eval` give.

    They count what a network becomes: a recurrent layer has its weights once for each step.
    """
    parts = chip["int8"].get("parts")
    if totals["stored_dtype"] != precision.INT8 or parts is None:
        return totals
    n_bytes = sum(parts[name] for name in ("weights", "biases", "constants"))
    return {**totals, "bytes_int8": n_bytes, "bytes_folded": n_bytes}


def as_json(name: str, rows: Sequence[budget.LayerCost], totals: Mapping, solved, chip) -> str:
    """Return one object: config, the totals, `layers`, `chip`, and `solve` if it was asked for."""
    layers = [dataclasses.asdict(row) for row in rows]
    result = {"config": name, **totals, "layers": layers, "chip": chip}
    return json.dumps(result | ({"solve": solved} if solved else {}), indent=2)


def as_text(
    name: str,
    rows: Sequence[budget.LayerCost],
    totals: Mapping,
    chip: Mapping,
    *,
    role: str = ROLES[0],
) -> str:
    """Return the table, its totals, the cost on a chip, the other conventions, and the verdict.

    role: `config.budget.role`.
    """
    max_macs, max_bytes = totals["max_macs"], totals["max_bytes"]

    def line(label, shape, n_params, macs, n_bytes):
        shares = f"{macs / max_macs:.1%}", f"{n_bytes / max_bytes:.1%}"
        return label, shape, n_params, f"{macs:,}", shares[0], f"{n_bytes:,}", shares[1]

    table = [HEADER]
    for row in rows:
        shape = "×".join(map(str, row.output_shape))
        table.append(line(row.layer, shape, f"{row.n_params:,}", row.macs, row.n_bytes))
    sums = [
        line("total", "", f"{totals['n_params']:,}", totals["macs"], totals["bytes"]),
        line("limit", "", "", max_macs, max_bytes),
        line("headroom", "", "", totals["headroom_macs"], totals["headroom_bytes"]),
    ]
    lines = align([*table, *sums], to_right=range(2, len(HEADER)))
    for place in (1, len(table) + 1):
        lines.insert(place, "─" * len(lines[0]))
    lines += ["", *chip_text(chip), "", *_notes(totals, role)]
    return "\n".join([f"{name}, one clip, parameters in {totals['stored_dtype']}", "", *lines])


def chip_text(chip: Mapping) -> list[str]:
    """Return the lines about what `chip_cost.examine` returns."""
    front, table = chip["front_end"], [CHIP_HEADER]
    unknown = {name: chip[name]["unknown"] for name in DTYPES if "unknown" in chip[name]}
    for name in (name for name in DTYPES if name not in unknown):
        cost = chip[name]
        live = dict.fromkeys([cost["peak_layer"], *cost["at_peak"]])
        numbers = (f"{cost[key]:,}" for key in ("flash", "ram", "input"))
        table.append((name, *numbers, ", ".join(live)))
    ram = f"{front['ram']:,}"
    table.append(
        ("front end", f"{front['table_bytes']:,}", ram, "", "a frame and its Fourier transform")
    )
    if "total" in chip:
        flash, ram = (f"{chip['total'][key]:,}" for key in ("flash", "ram"))
        table.append(("all at int8", flash, ram, "", "int8, its input and logits, front end"))
    notes = [f"{name} is not possible: {reason}" for name, reason in unknown.items()]
    if "int8" not in unknown:
        notes.append(f"int8 flash: {_list(chip['int8']['parts'])}")
        notes.append(_measured(chip["code"]))
    return [
        *align(table, to_right=(1, 2, 3)),
        *notes,
        f"front-end flash: {_list(front['tables'])}",
        f"front-end MACs, outside the task's count: {front['n_macs']:,} ({_list(front['macs'])}) "
        f"and {front['n_logarithms']:,} logarithms",
    ]


def _measured(code: Mapping | None) -> str:
    if code is None:
        return f"int8 code: not measured, because there is no {chip_cost.COMPILER} here"
    return (
        f"int8 linked for {code['target']} ({code['compiler']}): flash {code['flash']:,}, of it "
        f"code {code['code']:,}; RAM {code['ram']:,}"
    )


def figure_note(chip: Mapping) -> str:
    """Return what the picture says of a chip: flash and RAM at int8, "" where there is none."""
    cost = chip["int8"]
    if "unknown" in cost:
        return ""
    return f" · on a chip at int8 {cost['flash']:,} bytes of flash, {cost['ram']:,} of RAM"


def _list(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items() if value)


def _notes(totals: Mapping, role: str) -> list[str]:
    norms = totals["macs_torchinfo"] - totals["macs"]
    excess = [
        f"{-totals[f'headroom_{kind}']:,} {unit} too many"
        for kind, unit in (("macs", "MACs"), ("bytes", "bytes"))
        if totals[f"headroom_{kind}"] < 0
    ]
    verdict = f"over budget: {', '.join(excess)}" if excess else "within budget"
    if excess and role == ROLES[1]:
        verdict += ". It trains all the same: config.budget.role says that it is a teacher"
    return [
        f"torchinfo: {totals['macs_torchinfo']:,} MACs, the {norms:,} parameters of BatchNorm "
        "counted once each",
        *_stored(totals),
        f"verdict:   {verdict}",
    ]


def _stored(totals: Mapping) -> list[str]:
    """Return what the deployed form holds, and for int8 what the challenge's rule counts of it."""
    n_values, n_bytes = f"{totals['n_folded']:,} values", f"{totals['bytes_folded']:,} bytes"
    if totals["stored_dtype"] != precision.INT8:
        statistics = f"{totals['bytes_with_statistics']:,} bytes with running statistics"
        return [f"stored:    {statistics}; BatchNorm folded, {n_values}, {n_bytes}"]
    above = totals["bytes_folded"] - totals["max_bytes"]
    over = f", {above:,} over the limit if it is counted" if above > 0 else ""
    return [
        f"stored:    BatchNorm folded, {n_bytes}: 1 for a weight, 4 for a bias{over}",
        f"rule:      the challenge counts 1 byte for each of the {totals['n_params']:,} parameters "
        "in int8",
    ]


def solution_text(config, solved: Mapping) -> str:
    """Return how far each value could go, beside what it is now."""
    n_frames, hop = log_mel_shape(config)[1], config.features.hop_length
    hops = "none" if solved["hop_lengths"] is None else "–".join(map(str, solved["hop_lengths"]))
    known = {key: "none" if value is None else value for key, value in solved.items()}
    known |= {name: f"at least {known[name]}" for name in solved["at_least"]}
    return "\n".join(
        [
            "How far within the budget, one value at a time:",
            f"  frames     {known['n_frames']} (hop_length {hops}); now {n_frames} ({hop})",
            *(
                f"  {name:<9}  {known[name]}; now {config.model[name]}"
                for name in ("width", "expansion")
                if name in config.model
            ),
        ]
    )


if __name__ == "__main__":
    run(main, define_flags)
