"""Write an integer program as a library in C99, and run it to check it.

The kernels, `test.c`, `run.c` and the Makefile are the files in `c_sources/`, the same for every
network; `asc_model.h` there is a template. What is written here is the network: its sizes, its
numbers and the order of its calls.
"""

import contextlib
import math
import os
import pathlib
import shutil
import string
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from asc_jax.errors import UserError
from asc_jax.export import c_header
from asc_jax.export.c_header import comment
from asc_jax.operations.program import (
    Add,
    Concat,
    Constant,
    Conv,
    Energy,
    Lookup,
    Max,
    Mean,
    Mul,
    Pool,
    Program,
    Reshape,
    Slice,
    Step,
    Transpose,
)
from asc_jax.quantisation import arena

FOLDER = "asc_int8"
SOURCES = pathlib.Path(__file__).with_name("c_sources")
NETWORK = ("asc_model.c", "asc_kernels.c")  # what an application compiles
COPIED = (
    *("asc_kernels.c", "asc_kernels.h", "asc_float.h", "test.c", "run.c"),
    *("Makefile", "CMakeLists.txt"),
)
FLAGS = ("-std=c99", "-O2")
COMPILERS = ("cc", "gcc", "clang")
C_TYPES = {"int8": "int8_t", "int32": "int32_t", "uint8": "uint8_t"}
PER_LINE = {"int8": 16, "uint8": 16, "int32": 8}  # values
TRIAL = "#include <stdint.h>\n#include <stdio.h>\nint main(void) { return 0; }\n"

Files = dict[str, bytes]


def build(program: Program, classes: Sequence[str], metadata: Mapping[str, str]) -> Files:
    """Return the files of the library by name, but for `asc_test_vector.h`.

    Args:
      program: with an image as input.
      classes: names of the logits, in their order.
      metadata: text by name, for the comment on top.
    """
    memory = arena.plan(program)
    files = {name: (SOURCES / name).read_text("utf-8") for name in COPIED}
    template = (SOURCES / "asc_model.h").read_text("utf-8")
    files["asc_model.h"] = _header(template, program, memory, metadata)
    files["asc_model.c"] = "\n".join([*_network(program, memory, classes), ""])
    return {name: text.encode() for name, text in files.items()}


def test_vector(log_mel: np.ndarray, logits: np.ndarray) -> Files:
    """Return `asc_test_vector.h`.

    Args:
      log_mel: int8 `[n, …]` of n clips.
      logits: int8 `[n, n_classes]`: what the library has to compute.
    """
    lines = [
        "/* Log-mels and their logits, by the integer program in JAX. */",
        "#ifndef ASC_TEST_VECTOR_H\n#define ASC_TEST_VECTOR_H\n",
        '#include "asc_model.h"\n',
        f"#define ASC_N_TEST_CLIPS {len(log_mel)}\n",
    ]
    for name, size, values in (
        ("log_mel", "ASC_INPUT_BYTES", log_mel),
        ("logits", "ASC_N_CLASSES", logits),
    ):
        lines.append(f"static const int8_t asc_test_{name}[ASC_N_TEST_CLIPS][{size}] = {{")
        for row in values:
            lines += ["    {", *_values(row), "    },"]
        lines.append("};\n")
    return {"asc_test_vector.h": "\n".join([*lines, "#endif\n"]).encode()}


def compiler() -> str | None:
    """Return the path of a C compiler whose programs run here, or None."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder, "trial.c"), pathlib.Path(folder, "trial")
        source.write_text(TRIAL)
        for path in filter(None, map(shutil.which, COMPILERS)):
            # Systems have a `cc` that only says how to install one, or run no new programs.
            if _compile(path, (), [source], program).returncode == 0:
                with contextlib.suppress(OSError):
                    if subprocess.run([program]).returncode == 0:
                        return path
    return None


@contextlib.contextmanager
def compiled(
    files: Mapping[str, bytes], path: str, flags: Sequence[str] = FLAGS
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Compile the library and give it as a function: int8 `[b, …]` → int8 `[b, n_classes]`.

    Args:
      files: what `build` returns.
      path: of the compiler.
      flags: for it.

    Raises:
      UserError: it does not compile the files, or the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(files, path, flags, ("run.c", *NETWORK), pathlib.Path(folder))

        def run(x: np.ndarray) -> np.ndarray:
            done = subprocess.run([program], input=x.astype(np.int8).tobytes(), capture_output=True)
            if done.returncode != 0:
                raise UserError(
                    f"the C library, compiled by {path}, stopped with the status "
                    f"{done.returncode}: {_first_line(done.stderr)}"
                )
            return np.frombuffer(done.stdout, np.int8).reshape(len(x), -1)

        yield run


def memory_lines(program: Program) -> list[str]:
    """Return lines that say what memory the library takes."""
    memory = arena.plan(program)
    above = memory.n_bytes - memory.peak_bytes
    note = f", {above:,} of them lost between results" if above else ""
    table = sum(
        step.multiplier.nbytes + step.shift.size for step in program.steps if isinstance(step, Conv)
    )
    tables = f", {program.table_bytes:,} tables" if program.table_bytes else ""
    total = program.n_bytes + table + program.table_bytes
    return [
        f"arena: {memory.n_bytes:,} bytes, the most for {memory.peak} and what is needed "
        f"then{note}; input and logits, {math.prod(program.input.shape):,} and "
        f"{math.prod(program.output.shape):,} bytes, are the caller's",
        f"constants: {total:,} bytes, {table:,} of them multipliers and shifts{tables}",
    ]


def compile_program(
    files: Mapping[str, bytes],
    path: str,
    flags: Sequence[str],
    sources: Sequence[str],
    folder: pathlib.Path,
    libraries: Sequence[str] = (),
) -> pathlib.Path:
    """Write files into a folder, compile some of them, and return the path of the program.

    Raises:
      UserError: the compiler does not take them.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)
    paths = [*(folder / name for name in sources), *libraries]
    done = _compile(path, flags, paths, folder / "program")
    if done.returncode != 0:
        raise UserError(f"{path} does not compile the C library: {_first_line(done.stderr)}")
    return folder / "program"


def _compile(path: str, flags, sources, program) -> subprocess.CompletedProcess:
    command = [path, *flags, *map(str, sources), "-o", str(program)]
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, env=environment)


def _first_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["without a word"])[0]


def _header(template: str, program: Program, memory: arena.Arena, metadata) -> str:
    source, result = program.input, program.output
    return string.Template(template).substitute(
        metadata="\n".join(comment(f"{name}: {value}") for name, value in metadata.items()),
        n_mels=source.shape[0],
        n_frames=source.shape[1],
        input_bytes=math.prod(source.shape),
        input_scale=_float(source.scale),
        input_inverse=_float(source.inverse),
        input_zero_point=source.zero_point,
        n_classes=math.prod(result.shape),
        logit_scale=_float(result.scale),
        logit_zero_point=result.zero_point,
        peak=comment(memory.peak),
        arena_bytes=memory.n_bytes,
    )


def _network(program: Program, memory: arena.Arena, classes) -> Iterator[str]:
    yield "/* The network: see asc_model.h. */"
    yield '#include "asc_model.h"\n\n#include "asc_kernels.h"\n'
    yield "const char *const asc_classes[ASC_N_CLASSES] = {"
    yield from (f"    {c_header.string(name)}," for name in classes)
    yield "};\n"
    if memory.n_bytes:
        yield "/* Results that are needed at one time do not overlap. */"
        yield "static int8_t arena[ASC_ARENA_BYTES];\n"
    calls, known = [], set()
    for number, step in enumerate(program.steps):
        places = [_place(program, memory, tensor.name) for tensor in (*step.inputs, step.output)]
        if isinstance(step, Reshape) and places[0] == places[1]:
            continue
        constants, function, argument = _RULES[type(step)](step, number)
        if isinstance(step, Lookup):  # several layers may have one table
            constants = [] if constants[0] in known else constants
            known.update(constants[:1])
        if constants:
            yield f"/* {comment(step.output.name)} */"
            yield from constants
            yield ""
        if isinstance(step, Constant):
            continue
        name = comment(step.output.name)
        calls.append(f"    {function}({', '.join([argument, *places])}); /* {name} */")
    yield "void asc_run(const int8_t *log_mel, int8_t *logits)\n{"
    yield from calls
    yield "}"


def _place(program: Program, memory: arena.Arena, tensor: str) -> str:
    """Return the C expression for the address of a tensor."""
    block = memory.blocks[tensor]
    if block in memory.offsets:
        return f"arena + {memory.offsets[block]}"
    for number, step in enumerate(program.steps):
        if isinstance(step, Constant) and block == step.output.name:
            return f"values_{number}"
    return "log_mel" if block == program.input.name else "logits"


# The rules return lines of constants, the function, and its first argument.
Rule = tuple[list[str], str, str]


def _conv(step: Conv, number: int) -> Rule:
    (x,) = step.inputs
    arrays = {
        "weights": step.kernel.transpose(3, 0, 1, 2),
        "biases": step.bias,
        "multipliers": step.multiplier,
        "shifts": (-step.shift).astype(np.uint8),
    }
    fields = {
        "window": _window(step, step.kernel.shape[:2]),
        "groups": step.groups,
        "x_zero_point": x.zero_point,
        **{name: f"{name}_{number}" for name in arrays},
        "result": _result(step),
    }
    lines = [line for name, value in arrays.items() for line in _array(f"{name}_{number}", value)]
    return [*lines, *_struct("conv", number, fields)], "asc_conv", f"&conv_{number}"


def _add(step: Add, number: int) -> Rule:
    fields = {
        "pair": _pair(step),
        "sign": step.sign,
        "zero_points": _braces(x.zero_point for x in step.inputs),
        "multipliers": _braces(step.multipliers),
        "shifts": _braces(-shift for shift in step.shifts),
        "result": _result(step),
    }
    return list(_struct("add", number, fields)), "asc_add", f"&add_{number}"


def _mul(step: Mul, number: int) -> Rule:
    fields = {
        "pair": _pair(step),
        "zero_points": _braces(x.zero_point for x in step.inputs),
        "multiplier": step.multiplier,
        "shift": -step.shift,
        "result": _result(step),
    }
    return list(_struct("mul", number, fields)), "asc_mul", f"&mul_{number}"


def _pair(step: Add | Mul) -> str:
    """Return a `struct asc_pair`."""
    shape, strides = _four(step.output.shape), []
    for x in step.inputs:
        own = _four(x.shape)
        strides.append(
            0 if n == 1 else stride for n, stride in zip(own, _strides(own), strict=True)
        )
    return f"{{.n = {_braces(shape)}, .stride = {{{', '.join(map(_braces, strides))}}}}}"


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape of four axes: those of 1 come first."""
    return (1,) * (4 - len(shape)) + tuple(shape)


def _strides(shape: Sequence[int]) -> list[int]:
    """Return how far apart neighbours along every axis are."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _max(step: Max, number: int) -> Rule:
    return [], "asc_max", str(math.prod(step.output.shape))


def _lookup(step: Lookup, number: int) -> Rule:
    """Return a call with a table, whose name follows from its values."""
    table = f"table_{zlib.crc32(step.table.tobytes()):08x}"
    argument = f"&(const struct asc_lookup){{{math.prod(step.output.shape)}, {table}}}"
    return [*_array(table, step.table)], "asc_lookup", argument


def _constant(step: Constant, number: int) -> Rule:
    return list(_array(f"values_{number}", step.values)), "", ""


def _view(step: Slice | Transpose, number: int) -> Rule:
    shape = step.inputs[0].shape
    strides, start = _strides(shape), 0
    if isinstance(step, Transpose):
        strides = [strides[axis] for axis in step.permutation]
    else:
        start = sum(part[0] * stride for part, stride in zip(step.ranges, strides, strict=True))
        strides = [part[2] * stride for part, stride in zip(step.ranges, strides, strict=True)]
    fields = {
        "n": _braces(_four(step.output.shape)),
        "start": start,
        "stride": _braces([0] * (4 - len(strides)) + strides),
    }
    return list(_struct("view", number, fields)), "asc_view", f"&view_{number}"


def _concat(step: Concat, number: int) -> Rule:
    sizes = [math.prod(x.shape[step.axis :]) for x in step.inputs]
    fields = {"outer": math.prod(step.output.shape[: step.axis]), "size": _braces(sizes)}
    return list(_struct("concat", number, fields)), "asc_concat", f"&concat_{number}"


def _pool(step: Pool, number: int) -> Rule:
    fields = {"window": _window(step, step.size), "result": _result(step)}
    return list(_struct("pool", number, fields)), f"asc_{step.kind}_pool", f"&pool_{number}"


def _mean(step: Mean | Energy, number: int) -> Rule:
    (x,) = step.inputs
    first, last = step.axis[0], step.axis[-1] + 1
    fields = {
        "outer": math.prod(x.shape[:first]),
        "n": math.prod(x.shape[first:last]),
        "inner": math.prod(x.shape[last:]),
        "x_zero_point": x.zero_point,
        "multiplier": step.multiplier,
        "shift": -step.shift,
        "result": _result(step),
    }
    kind = "asc_energy" if isinstance(step, Energy) else "asc_mean"
    return list(_struct("mean", number, fields)), kind, f"&mean_{number}"


def _reshape(step: Reshape, number: int) -> Rule:
    return [], "asc_copy", str(math.prod(step.output.shape))


_RULES: dict[type[Step], Callable[..., Rule]] = {
    Conv: _conv,
    Add: _add,
    Mul: _mul,
    Max: _max,
    Lookup: _lookup,
    Constant: _constant,
    Pool: _pool,
    Mean: _mean,
    Energy: _mean,
    Reshape: _reshape,
    Slice: _view,
    Transpose: _view,
    Concat: _concat,
}


def _window(step: Conv | Pool, size: Sequence[int]) -> str:
    """Return a `struct asc_window`; the padding after an image follows from the result's shape."""
    fields = {"x": _braces(step.inputs[0].shape), "y": _braces(step.output.shape)}
    pairs = {"size": size, "stride": step.strides, "pad": [before for before, _ in step.padding]}
    fields |= {name: _braces(pair) for name, pair in pairs.items()}
    return f"{{{_fields(fields, ', ')}}}"


def _result(step: Step) -> str:
    fields = {"zero_point": step.output.zero_point, "low": step.low, "high": step.high}
    return f"{{{_fields(fields, ', ')}}}"


def _struct(kind: str, number: int, fields: Mapping) -> Iterator[str]:
    yield f"static const struct asc_{kind} {kind}_{number} = {{"
    yield f"    {_fields(fields, ',' + chr(10) + '    ')},"
    yield "};"


def _fields(fields: Mapping, between: str) -> str:
    return between.join(f".{name} = {value}" for name, value in fields.items())


def _braces(values) -> str:
    return f"{{{', '.join(str(int(value)) for value in values)}}}"


def _array(name: str, values: np.ndarray) -> Iterator[str]:
    yield f"static const {C_TYPES[values.dtype.name]} {name}[{values.size}] = {{"
    yield from _values(values)
    yield "};"


def _values(values: np.ndarray) -> Iterator[str]:
    words, n = [str(value) for value in values.ravel()], PER_LINE[values.dtype.name]
    for start in range(0, len(words), n):
        yield f"    {', '.join(words[start : start + n])},"


def _float(value: np.float32) -> str:
    """Return the shortest text that is exact in float32, as a C constant."""
    return f"{value!s}f"
