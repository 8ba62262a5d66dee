"""Find a place in memory for the results of an integer program, where lifetimes share places.

A result is needed from the step that computes it to the last one that reads it. The input and the
logits lie in memory of the caller. A reshape moves nothing: its result is that of its input.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from asc_jax.operations.program import Constant, Program, Reshape

MAX_ROUNDS = 100


@dataclasses.dataclass(frozen=True)
class Block:
    """Memory of a result and its reshapes: needed from the step `first` to the step `last`."""

    name: str
    n_bytes: int
    first: int
    last: int

    def meets(self, other: "Block") -> bool:
        """Return whether both are needed during some step."""
        return self.first <= other.last and other.first <= self.last


@dataclasses.dataclass(frozen=True)
class Arena:
    """Memory for all results but the input, the logits and constants.

    offsets: by the name of the block. blocks: the name of the block by that of a tensor; those of
    the input, of the logits and of constants have no offset. n_bytes: of the arena. peak_bytes: the
    largest sum of what is needed during one step, below which no arena can be; peak: that step's
    result.
    """

    offsets: Mapping[str, int]
    blocks: Mapping[str, str]
    n_bytes: int
    peak_bytes: int
    peak: str


def plan(program: Program) -> Arena:
    """Return offsets at which no two results that are needed at one time overlap.

    Every block takes the lowest place that is free during its lifetime, in some order. Where the
    arena becomes larger than what is needed at once, the block that ends last goes to the front of
    the order, and all are placed again.
    """
    owners = block_names(program)
    results = blocks(program)
    needed = [sum(block.n_bytes for block in at(results, k)) for k in range(len(program.steps))]
    order = sorted(results, key=lambda block: (-block.n_bytes, block.first))
    now, n_bytes = _first_fit(order)
    places = now
    for _ in range(MAX_ROUNDS):
        if n_bytes == max(needed):
            break
        worst = max(order, key=lambda block: now[block.name] + block.n_bytes)
        order.sort(key=lambda block: block is not worst)  # the others keep their order
        now, n_now = _first_fit(order)
        if n_now < n_bytes:
            places, n_bytes = now, n_now
    peak = program.steps[needed.index(max(needed))].output.name
    return Arena(places, owners, n_bytes, max(needed), peak)


def at(results: Sequence[Block], number: int) -> list[Block]:
    """Return the blocks that are needed during the step of this number."""
    return [block for block in results if block.first <= number <= block.last]


def block_names(program: Program) -> dict[str, str]:
    """Return the name of the block by that of a tensor: of the tensor whose values it holds."""
    owners = {program.input.name: program.input.name}
    for step in program.steps:
        name = step.output.name
        owners[name] = owners[step.inputs[0].name] if isinstance(step, Reshape) else name
    # A program that does nothing but reshape has to copy its input.
    if owners[program.output.name] == program.input.name:
        owners[program.output.name] = program.output.name
    return owners


def blocks(program: Program) -> list[Block]:
    """Return the blocks of all results but those in memory of the caller."""
    owners = block_names(program)
    callers = {program.input.name, owners[program.output.name]}
    constants = {step.output.name for step in program.steps if isinstance(step, Constant)}
    first, last, n_bytes = {}, {}, {}
    for number, step in enumerate(program.steps):
        for tensor in (step.output, *step.inputs):
            name = owners[tensor.name]
            first.setdefault(name, number)
            last[name], n_bytes[name] = number, math.prod(tensor.shape)
    return [Block(n, n_bytes[n], first[n], last[n]) for n in first if n not in callers | constants]


def _first_fit(blocks: Sequence[Block]) -> tuple[dict[str, int], int]:
    """Return the offsets of blocks that are placed in this order, and the bytes of all."""
    offsets: dict[str, int] = {}
    for number, block in enumerate(blocks):
        taken = sorted((offsets[b.name], b.n_bytes) for b in blocks[:number] if b.meets(block))
        offset = 0
        for start, n_bytes in taken:
            if start - offset >= block.n_bytes:
                break
            offset = max(offset, start + n_bytes)
        offsets[block.name] = offset
    return offsets, max((offsets[b.name] + b.n_bytes for b in blocks), default=0)
