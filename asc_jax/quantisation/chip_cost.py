"""Measure what a config's network and its front end cost on a microcontroller: flash, RAM, MACs.

Only shapes matter, so that a config is enough: the numbers are those of the same network with other
weights. Code is what a compiler makes of it, and is measured where one for the chip is at hand.
"""

import dataclasses
import math
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax.complexity import front_end
from asc_jax.errors import UserError
from asc_jax.models import evaluation
from asc_jax.models.from_config import deployed, log_mel_shape, model, n_samples
from asc_jax.operations import lower, reader
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.operations.program import Constant, Conv, Lookup, Program, build
from asc_jax.quantisation import arena, c_library
from asc_jax.types import Params

FLOAT_BYTES = {"float16": 2, "float32": 4}  # of a value
RANGE = -1.0, 1.0  # of every result: scales depend on it, and sizes do not
COMPILER = "arm-none-eabi-gcc"
TARGET = "Cortex-M4"
FLAGS = (
    *("-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections"),
    # What `asc_run` needs and nothing else, as in an application that is linked in sections.
    *("-nostdlib", "-Wl,-e,asc_run", "-Wl,--gc-sections", "-Wl,--unresolved-symbols=ignore-all"),
)


def examine(config, *, measure_code: bool = True) -> dict:
    """Return what a config's network, as it is deployed, costs on a chip for one clip.

    Args:
      config: as `configs/base.py` defines it.
      measure_code: compile the integer network for `TARGET` where there is a compiler for it.

    Returns:
      `int8`, `float16`, `float32`: bytes of `flash`; `parts`, what lies there; `ram` for the
      results, but input and logits; `peak_layer`, where most is needed, and `at_peak`, the results
      that are needed then; `input`, `logits`. Or `unknown`, why there is no such network.
      For int8 `ram` is the arena of the C library; floating-point results have 4 or 2 bytes a
      value, and BatchNorm is folded.
      `front_end`: what `complexity.front_end.examine` returns.
      `code`: what `code_cost` returns for int8; None where it was not measured. Where there is
      int8, `total`: what `total` returns.

    Raises:
      UserError: the values describe no network.
    """
    costs: dict = {"code": None}
    costs["front_end"] = front_end.examine(n_samples(config), config.features.to_dict())
    try:
        operations = read(config)
    except UserError as error:
        return costs | {name: {"unknown": _reason(error)} for name in ("int8", *FLOAT_BYTES)}
    shape = log_mel_shape(config)
    costs |= {name: float_cost(operations, shape, size) for name, size in FLOAT_BYTES.items()}
    lowered = lower.lower(operations)
    names = [op.name for op in lowered]
    try:
        program = build(operations, shape, dict.fromkeys([INPUT, *names], RANGE))
    except UserError as error:
        return costs | {"int8": {"unknown": _reason(error)}}
    program = _with_tables(program, lowered)
    costs["int8"] = int8_cost(program)
    if measure_code:
        costs["code"] = code_cost(program, config.labels.classes)
    return costs | {"total": total(costs)}


def _with_tables(program: Program, lowered: Sequence[Operation]) -> Program:
    """Return a program whose layers share the tables that they share with ranges of their own.

    Those are what does not depend on a range: parts of response normalisations. With one range for
    all results, layers would share the others, too.
    """
    shared = {op.name: "bounds" for op in lowered if "bounds" in op.options}
    for op in lowered:
        if op.kind == lower.LOG_NORM:
            shared |= {f"{op.name}/of{level}": f"of{level}" for level in lower.LEVELS}
    numbers: dict[str, int] = {}
    steps = []
    for step in program.steps:
        if isinstance(step, Lookup):
            name = shared.get(step.output.name, step.output.name)
            table = np.zeros_like(step.table)
            table[:2] = divmod(numbers.setdefault(name, len(numbers)), 128)
            step = dataclasses.replace(step, table=table)
        steps.append(step)
    return dataclasses.replace(program, steps=steps)


def total(costs: Mapping) -> dict[str, int]:
    """Return flash and RAM at int8 of network, log-mel, logits and front end together, in bytes.

    Args:
      costs: what `examine` returns, with int8. Where the network was linked, its flash is that.
    """
    int8, front = costs["int8"], costs["front_end"]
    return {
        "flash": (costs["code"] or int8)["flash"] + front["table_bytes"],
        "ram": int8["ram"] + int8["input"] + int8["logits"] + front["ram"],
    }


def _reason(error: UserError) -> str:
    return str(error).partition(":")[0]  # without what to do when such a network is written


def read(config) -> list[Operation]:
    """Return the operations of a config's network with random weights, as it is deployed.

    Raises:
      UserError: a primitive of it has no rule in `operations.reader`.
    """
    config, _ = deployed(config)
    network, shape = model(config), log_mel_shape(config)
    clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key, clip: network.init(key, clip, train=False), jax.random.key(0), clip
    )
    return reader.read(evaluation(network), random_variables(variables), shape)


def random_variables(variables: Params) -> Params:
    """Return random numbers of these shapes, statistics above 0: none is 0 or 1 and left out."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[0].key == "params":
            return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def int8_cost(program: Program) -> dict:
    """Return the bytes of an integer program: see `examine`."""
    convs = [step for step in program.steps if isinstance(step, Conv)]
    parts = {
        "weights": sum(step.kernel.nbytes for step in convs),
        "biases": sum(step.bias.nbytes for step in convs),
        "multipliers and shifts": sum(s.multiplier.nbytes + s.shift.size for s in convs),
        "constants": sum(s.values.nbytes for s in program.steps if isinstance(s, Constant)),
        "tables": program.table_bytes,
    }
    memory, results = arena.plan(program), arena.blocks(program)
    names = [step.output.name for step in program.steps]
    return {
        "flash": sum(parts.values()),
        "parts": parts,
        "ram": memory.n_bytes,
        **_at_peak(results, names),
        "input": math.prod(program.input.shape),
        "logits": math.prod(program.output.shape),
    }


def float_cost(operations: Sequence[Operation], shape: Sequence[int], itemsize: int) -> dict:
    """Return the bytes of a network whose values and weights have this many: see `examine`."""
    arrays = {op.owner: op.arrays for op in operations}
    results, names = _blocks(operations, itemsize), [op.name for op in operations]
    peak = max(_bytes_at(results, number) for number in range(len(names)))
    n_values = sum(x.size for own in arrays.values() for x in own.values())
    return {
        "flash": itemsize * n_values,
        "parts": {"weights": itemsize * n_values},
        "ram": peak,
        **_at_peak(results, names),
        "input": itemsize * math.prod(shape),
        "logits": itemsize * math.prod(operations[-1].shape),
    }


def _blocks(operations: Sequence[Operation], itemsize: int) -> list[arena.Block]:
    """Return the lifetimes of results, as `arena.blocks` does; constants are in flash."""
    owners, first, last, n_bytes = {INPUT: INPUT}, {}, {}, {}
    constants = {op.name for op in operations if op.kind == "constant"}
    for number, op in enumerate(operations):
        own = op.kind != "reshape" or op.activation
        owners[op.name] = op.name if own else owners[op.inputs[0]]
        for name in (owners[op.name], *(owners[name] for name in op.inputs)):
            first.setdefault(name, number)
            last[name] = number
        n_bytes.setdefault(owners[op.name], itemsize * math.prod(op.shape))
    elsewhere = {INPUT, owners[operations[-1].name], *constants}
    return [arena.Block(n, n_bytes[n], first[n], last[n]) for n in first if n not in elsewhere]


def _bytes_at(results: Sequence[arena.Block], number: int) -> int:
    return sum(block.n_bytes for block in arena.at(results, number))


def _at_peak(results: Sequence[arena.Block], names: Sequence[str]) -> dict:
    number = max(range(len(names)), key=lambda number: _bytes_at(results, number))  # the first
    at_peak = [block.name for block in arena.at(results, number)]
    return {"peak_layer": names[number], "at_peak": at_peak}


def code_cost(program: Program, classes: Sequence[str]) -> dict | None:
    """Return what the C library of a program takes when it is linked for `TARGET`, or None.

    Returns:
      `target`, `compiler`; `code`, `constants` (weights, biases, tables and the descriptions of the
      layers), `flash`, the sum of both, and `ram`, bytes of the sections of the linked network.
      None: there is no such compiler, or no program of it that lists sections.
    """
    path, size = shutil.which(COMPILER), shutil.which(COMPILER.removesuffix("gcc") + "size")
    if path is None or size is None:
        return None
    files = c_library.build(program, classes, {})
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            pathlib.Path(folder, name).write_bytes(content)
        command = [path, *FLAGS, *c_library.NETWORK, "-o", "network.elf", "-lgcc"]
        done = subprocess.run(command, cwd=folder, capture_output=True)
        if done.returncode != 0:
            return None
        listed = subprocess.run([size, "-A", "network.elf"], cwd=folder, capture_output=True)
    rows = [line.split() for line in listed.stdout.decode().splitlines()]
    sections = {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[1].isdigit()}
    code, constants = sections.get(".text", 0), sections.get(".rodata", 0)
    return {
        "target": TARGET,
        "compiler": f"{COMPILER} {_version(path)} -O2",
        "code": code,
        "constants": constants,
        "flash": code + constants + sections.get(".data", 0),
        "ram": sections.get(".bss", 0) + sections.get(".data", 0),
    }


def _version(path: str) -> str:
    done = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True)
    return done.stdout.strip()
