"""Write a network as a library in C99 that computes in float: any operation of `operations.graph`.

It is the float form of `c_library`, with the same arena and the same front end. The kernels are
`c_sources/asc_float_kernels.c`; what goes value by value, along axes in any order, is one kernel
with four loops, `asc_map`.
"""

import contextlib
import functools
import itertools
import math
import os
import pathlib
import string
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import open_run, softmax
from asc_jax.export import c_header, check
from asc_jax.export.c_header import comment
from asc_jax.export.run import deploy, require_out, write
from asc_jax.operations.graph import (
    ARTEFACTS,
    ELEMENTWISE,
    INPUT,
    REDUCTIONS,
    Deployment,
    Operation,
)
from asc_jax.operations.program import Program, Reshape, Step, Tensor
from asc_jax.quantisation import arena, c_features, c_library

FOLDER = "asc_float32"
SOURCES = c_library.SOURCES
NETWORK = ("asc_model.c", "asc_float_kernels.c")  # what an application compiles, with libm
# In the folder → in c_sources.
COPIED = {name: name for name in ("asc_float_kernels.c", "asc_float_kernels.h")}
COPIED |= {"run.c": "run_float.c", "Makefile": "Makefile_float"}
COPIED |= {"CMakeLists.txt": "CMakeLists_float.txt"}
EVERY = 4  # batch of those that other exports are compared on: plain loops take their time
NAMES = ", ".join(c_library.COMPILERS)
N_AXES = 4
# Reduction → kind of walk, and the value before the first.
REDUCING = {
    "reduce_sum": ("SUM", "0.0f"),
    "reduce_mean": ("SUM", "0.0f"),
    "reduce_max": ("LARGEST", "-HUGE_VALF"),
    "reduce_min": ("SMALLEST", "HUGE_VALF"),
}
PER_LINE = 8

Files = dict[str, bytes]


def export_float32(
    workdir: str | os.PathLike,
    *,
    out_dir: str | os.PathLike | None = None,
    checkpoint: str = "last",
    clips=None,
) -> list[str]:
    """Write the trained network of a workdir as a library in C, after comparing it with JAX.

    Args: as of `export.run.export_run`.

    Returns:
      Lines to print: files, sizes, comparison.

    Raises:
      UserError: no such run; the network has an operation without a rule; the library computes
        other logits; or it cannot be written. Nothing is written then.
    """
    out = require_out(workdir, checkpoint, out_dir)
    run = open_run(workdir, checkpoint=checkpoint)
    experiment, metadata = run.experiment, {"config": run.name, "step": str(run.step)}
    deployment = deploy(experiment, run.variables, "float32", metadata)
    library, lines = build(deployment), []
    try:
        library |= c_features.build(deployment.features, deployment.n_samples)
    except UserError as error:
        lines.append(f"without a front end in C: {error}")
    if path := c_library.compiler():
        batches = check.clip_batches(clips, experiment.n_samples)
        tally = _compare(run, deployment, library, path, batches)
        lines += [
            f"  {name}: within {tally['gap'][name]:.1e} of JAX on {tally['n_clips']:,} clips "
            f"(compiled by {path})"
            for name in ARTEFACTS
        ]
    else:
        lines.append(f"the C library was not run: no compiler here ({NAMES})")
    over = ".teacher" if experiment.is_teacher else ""
    over = ".over_budget" if "budget" in deployment.metadata else over
    folder = out / f"{FOLDER}{over}"
    write({folder / name: data for name, data in library.items()})
    memory = arena.plan(plan_of(deployment))
    size = f"arena: {4 * memory.n_bytes:,} bytes, the most for {memory.peak}"
    return [f"{folder}: {', '.join(sorted(library))}", size, *lines]


def _compare(run, deployment: Deployment, library: Files, path: str, batches) -> dict:
    """Return the tally of `check.compare`, after `check.require_agreement`."""
    reference = check.make_reference(run.experiment, run.variables, deployment)
    shape = deployment.input_shapes["log_mel_to_logits"][:2]
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(compiled(library, path))
        front_end = functools.partial(_log_mel, deployment)
        if "asc_features.c" in library:
            front_end = stack.enter_context(c_features.compiled(library, path, shape))
        functions = {
            "waveform_to_probs": lambda audio: softmax(network(front_end(audio))),
            "log_mel_to_logits": network,
        }
        tally = check.compare(reference, functions, itertools.islice(batches, 0, None, EVERY))
    check.require_agreement(tally)
    return tally


def _log_mel(deployment: Deployment, audio: np.ndarray) -> np.ndarray:
    return np.asarray(features.log_mel(audio, **deployment.features))


def build(deployment: Deployment) -> Files:
    """Return the files of the library by name, without the front end.

    Args:
      deployment: of a network that has operations, in float32.

    Raises:
      UserError: an operation has no rule in C; its layer is named.
    """
    program = plan_of(deployment)
    memory = arena.plan(program)
    template = string.Template((SOURCES / "asc_float_model.h").read_text("utf-8"))
    header = template.substitute(
        metadata="\n".join(comment(f"{k}: {v}") for k, v in deployment.metadata.items()),
        n_mels=program.input.shape[0],
        n_frames=program.input.shape[1],
        n_classes=math.prod(program.output.shape),
        peak=comment(memory.peak),
        arena_bytes=4 * memory.n_bytes,
    )
    files = {name: (SOURCES / source).read_text("utf-8") for name, source in COPIED.items()}
    files["asc_model.h"] = header
    files["asc_model.c"] = "\n".join([*_Writer(deployment, program, memory).lines(), ""])
    return {name: text.encode() for name, text in files.items()}


def plan_of(deployment: Deployment) -> Program:
    """Return the program of which `arena.plan` makes places: a value of it is a float here."""

    def tensor(name: str, shape: Sequence[int]) -> Tensor:
        return Tensor(name, tuple(shape), np.float32(1), 0)

    source = tensor(INPUT, deployment.input_shapes["log_mel_to_logits"])
    tensors, steps = {INPUT: source}, []
    for op in deployment.operations:
        if op.kind == "constant":
            continue
        inputs = tuple(tensors[name] for name in op.inputs if name in tensors)
        tensors[op.name] = tensor(op.name, op.shape)
        kind = Reshape if op.kind == "reshape" and not op.activation else Step
        steps.append(kind(inputs, tensors[op.name], None, 0, 0))
    return Program(source, steps)


@contextlib.contextmanager
def compiled(
    files: Mapping[str, bytes], path: str, flags: Sequence[str] = c_library.FLAGS
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Compile the library and give it as a function: float32 `[b, …]` → `[b, n_classes]`.

    Args:
      files: what `build` returns.
      path: of the compiler.
      flags: for it.

    Raises:
      UserError: it does not compile the files, or the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = ("run.c", *NETWORK)
        program = c_library.compile_program(
            files, path, flags, sources, pathlib.Path(folder), libraries=("-lm",)
        )

        def run(x: np.ndarray) -> np.ndarray:
            done = subprocess.run(
                [program], input=x.astype(np.float32).tobytes(), capture_output=True
            )
            if done.returncode != 0:
                raise UserError(f"the network in C stopped with the status {done.returncode}")
            return np.frombuffer(done.stdout, np.float32).reshape(len(x), -1)

        yield run


class _Writer:
    """The text of `asc_model.c`."""

    def __init__(self, deployment: Deployment, program: Program, memory: arena.Arena):
        self._operations, self._classes = deployment.operations, deployment.classes
        self._program, self._memory = program, memory
        self._shapes = {INPUT: program.input.shape}
        self._shapes |= {op.name: op.shape for op in deployment.operations}
        self._numbers = {op.name: number for number, op in enumerate(deployment.operations)}
        self._constants: list[str] = []
        self._calls: list[str] = []
        self._arrays: set[str] = set()

    def lines(self) -> Iterator[str]:
        for op in self._operations:
            self._write(op)
        norms = [op.shape[-1] for op in self._operations if op.kind == "grn"]
        yield "/* The network: see asc_model.h. */"
        yield '#include "asc_model.h"\n\n#include <math.h>\n\n#include "asc_float_kernels.h"\n'
        yield "const char *const asc_classes[ASC_N_CLASSES] = {"
        yield from (f"    {c_header.string(name)}," for name in self._classes)
        yield "};\n"
        if self._memory.n_bytes:
            yield "/* Results that are needed at one time do not overlap. */"
            yield "static float arena[ASC_ARENA_BYTES / 4];"
        if norms:
            yield f"static float norms[{max(norms)}];"
        yield from self._constants
        yield "\nvoid asc_run(const float *log_mel, float *logits)\n{"
        yield from self._calls
        yield "}"

    def _write(self, op: Operation) -> None:
        rule = _RULES.get(op.kind)
        if rule is None or max(len(op.shape), *map(len, self._inputs(op)), 0) > N_AXES:
            raise UserError(f"the operation {op.kind} of {op.name} has no rule in C")
        rule(self, op)
        if op.activation:
            n, kind = math.prod(op.shape), op.activation.upper()
            self.call("activate", f"{n}, ASC_{kind}, {self.place(op.name)}", op)

    def _inputs(self, op: Operation) -> list[tuple[int, ...]]:
        return [self._shapes[name] for name in op.inputs]

    def call(self, function: str, arguments: str, op: Operation) -> None:
        self._calls.append(f"    asc_{function}({arguments}); /* {comment(op.name)} */")

    def place(self, name: str) -> str:
        """Return the C expression for the address of a result or constant."""
        if name not in self._memory.blocks:
            return f"value_{self._numbers[name]}"
        block = self._memory.blocks[name]
        if block in self._memory.offsets:
            return f"arena + {self._memory.offsets[block]}"
        return "log_mel" if block == INPUT else "logits"

    def array(self, kind: str, op: Operation, values: np.ndarray) -> str:
        """Write an array, once for all that share it, and return its name in C."""
        name = f"{kind}_{self._numbers[op.owner]}"
        if name not in self._arrays:
            self._arrays.add(name)
            words = [f"{value!s}f" for value in np.asarray(values, np.float32).ravel()]
            self._constants.append(f"\nstatic const float {name}[{len(words)}] = {{")
            for start in range(0, len(words), PER_LINE):
                self._constants.append(f"    {', '.join(words[start : start + PER_LINE])},")
            self._constants.append("};")
        return name

    def struct(self, kind: str, text: str) -> str:
        """Write a constant struct and return its address in C."""
        name = f"{kind}_{len(self._constants)}"
        self._constants.append(f"static const struct asc_{kind} {name} = {{{text}}};")
        return f"&{name}"

    def window(self, op: Operation, size, image_x, image_y, strides, padding) -> str:
        before = [pair[0] for pair in padding]
        parts = [image_x, image_y, size, strides, before]
        names = ("x", "y", "size", "stride", "pad")
        fields = [f".{name} = {_braces(v)}" for name, v in zip(names, parts, strict=True)]
        return f"{{{', '.join(fields)}}}"

    def map(self, kind: str, op: Operation, size, operands, y_strides, offset: int = 0) -> None:
        """Write a call of `asc_map`.

        Args:
          kind: of an `asc_map_kind`.
          size: of the loops.
          operands: one or two pairs of an address and its strides.
          y_strides: of the result; offset: of its first value.
        """
        (a, a_strides), (b, b_strides) = (*operands, (operands[0][0], [0] * len(size)))[:2]
        names = ("size", "a", "b", "y")
        parts = [size, a_strides, b_strides, y_strides]
        fields = [
            f".{name} = {_braces([fill] * (N_AXES - len(v)) + list(v))}"
            for name, v, fill in zip(names, parts, (1, 0, 0, 0), strict=True)
        ]
        walk = self.struct("walk", ", ".join(fields))
        y = self.place(op.name) + (f" + {offset}" if offset else "")
        self.call("map", f"{walk}, ASC_{kind}, {a}, {b}, {y}", op)


def _conv(w: _Writer, op: Operation) -> None:
    (x,), options, kernel = w._inputs(op), op.options, op.arrays["kernel"]
    window = w.window(op, kernel.shape[:2], x, op.shape, options["strides"], options["padding"])
    _convolve(w, op, window, options["groups"], kernel)


def _dense(w: _Writer, op: Operation) -> None:
    (x,), kernel = w._inputs(op), op.arrays["kernel"]
    images = [(math.prod(shape[:-1]), 1, shape[-1]) for shape in (x, op.shape)]
    window = w.window(op, (1, 1), *images, (1, 1), ((0, 0), (0, 0)))
    _convolve(w, op, window, 1, kernel[None, None])


def _convolve(w: _Writer, op: Operation, window: str, groups: int, kernel: np.ndarray) -> None:
    weights = w.array("weights", op, kernel.transpose(3, 0, 1, 2))
    biases = w.array("biases", op, op.arrays["bias"])
    fields = f".window = {window}, .groups = {groups}, .weights = {weights}, .biases = {biases}"
    conv = w.struct("conv", fields)
    w.call("conv", f"{conv}, {w.place(op.inputs[0])}, {w.place(op.name)}", op)


def _pool(w: _Writer, op: Operation) -> None:
    (x,), options = w._inputs(op), op.options
    window = w.window(op, options["size"], x, op.shape, options["strides"], options["padding"])
    pool = w.struct("window", window[1:-1])
    w.call(op.kind, f"{pool}, {w.place(op.inputs[0])}, {w.place(op.name)}", op)


def _grn(w: _Writer, op: Operation) -> None:
    image = w.struct("image", ", ".join(map(str, op.shape)))
    both = w.array("gamma_beta", op, np.concatenate([op.arrays["gamma"], op.arrays["beta"]]))
    places = f"{w.place(op.inputs[0])}, {w.place(op.name)}"
    w.call("grn", f"{image}, {both}, {places}, norms", op)


def _elementwise(w: _Writer, op: Operation) -> None:
    operands = [
        (w.place(name), _spread(shape, op.shape))
        for name, shape in zip(op.inputs, w._inputs(op), strict=True)
    ]
    w.map(op.kind.upper(), op, op.shape, operands, _strides(op.shape))


def _reduce(w: _Writer, op: Operation) -> None:
    (x,), (kind, start) = w._inputs(op), REDUCING[op.kind]
    kept = [1 if axis in op.options["axis"] else n for axis, n in enumerate(x, 1)]
    n, place = math.prod(op.shape), w.place(op.name)
    w.call("fill", f"{n}, {start}, {place}", op)
    w.map(kind, op, x, [(w.place(op.inputs[0]), _strides(x))], _spread(kept, x))
    if op.kind == "reduce_mean":
        w.call("scale", f"{n}, {np.float32(n / math.prod(x))!s}f, {place}", op)


def _constant(w: _Writer, op: Operation) -> None:
    w.array("value", op, op.arrays["value"])


def _copy(w: _Writer, op: Operation) -> None:
    if w.place(op.inputs[0]) != w.place(op.name):
        n = [math.prod(op.shape)]
        w.map("COPY", op, n, [(w.place(op.inputs[0]), [1])], [1])


def _transpose(w: _Writer, op: Operation) -> None:
    (x,) = w._inputs(op)
    strides = _strides(x)
    moved = [strides[axis - 1] for axis in op.options["permutation"][1:]]
    w.map("COPY", op, op.shape, [(w.place(op.inputs[0]), moved)], _strides(op.shape))


def _slice(w: _Writer, op: Operation) -> None:
    (x,), ranges = w._inputs(op), op.options["ranges"]
    strides = _strides(x)
    first = sum(start * n for (start, _, _), n in zip(ranges, strides, strict=True))
    stepped = [step * n for (_, _, step), n in zip(ranges, strides, strict=True)]
    source = w.place(op.inputs[0]) + (f" + {first}" if first else "")
    w.map("COPY", op, op.shape, [(source, stepped)], _strides(op.shape))


def _concatenate(w: _Writer, op: Operation) -> None:
    strides, offset = _strides(op.shape), 0
    for name, shape in zip(op.inputs, w._inputs(op), strict=True):
        w.map("COPY", op, shape, [(w.place(name), _strides(shape))], strides, offset)
        offset += shape[op.options["axis"] - 1] * strides[op.options["axis"] - 1]


_RULES: dict[str, Callable[[_Writer, Operation], None]] = {
    "conv": _conv,
    "dense": _dense,
    "avg_pool": _pool,
    "max_pool": _pool,
    "grn": _grn,
    "activation": _copy,
    "reshape": _copy,
    "constant": _constant,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
}


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _spread(shape: Sequence[int], over: Sequence[int]) -> list[int]:
    """Return the strides of an array that is broadcast: 0 along axes that it has one value of."""
    shape = [1] * (len(over) - len(shape)) + list(shape)
    return [0 if n == 1 else stride for n, stride in zip(shape, _strides(shape), strict=True)]


def _braces(values) -> str:
    return f"{{{', '.join(str(int(value)) for value in values)}}}"
