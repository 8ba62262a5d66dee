"""The C library of an integer network: the program's bits, and C that every compiler takes."""

import importlib
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from small import small_clips
from test_quantisation import (
    IMAGE,
    NETWORKS,
    build,
    by_microcontroller,
    conv,
    dense,
    pool,
    quantised,
    random_input,
    save_mini,
    slow,
)

from asc_jax.errors import UserError
from asc_jax.operations import simulate
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.operations.program import Program, Reshape, Step, Tensor
from asc_jax.quantisation import arena, c_library, litert, run

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITISED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def after(op, source):
    """The same operation of another result."""
    return Operation(op.kind, op.name, [source], op.shape, op.options, op.arrays, op.activation)


# A block of CP-Mobile with its head: every operation but the maximum.
BLOCK = [
    conv("expand", 4, (1, 1), activation="relu"),
    after(conv("filter", 4, (3, 3), padding=((1, 1), (1, 1)), groups=4), "expand"),
    Operation("add", "add", ["filter", INPUT], IMAGE, activation="relu"),
    after(pool("avg_pool", "pool", (2, 2), (2, 2), ((0, 0), (0, 0)), (3, 3, 4)), "add"),
    Operation("reduce_mean", "mean", ["pool"], (4,), {"axis": (1, 2), "keepdims": False}),
    dense("logits", (4,), 3, "mean"),
]
MORE = {
    "block": BLOCK,
    "nothing but a reshape": [Operation("reshape", "flat", [INPUT], (168,))],
    "windows that are all padding": [
        pool("avg_pool", "p", (2, 2), (1, 1), ((3, 0), (0, 4)), (9, 9, 4))
    ],
    "maximum of nothing": [pool("max_pool", "p", (2, 2), (1, 1), ((0, 3), (3, 0)), (9, 8, 4))],
}


@pytest.fixture(scope="module")
def compiler():
    path = c_library.compiler()
    if path is None:
        pytest.skip("no C compiler here")
    return path


def builds(compiler, folder, *flags):
    """Return whether a program of nothing can be built with such flags."""
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    command = [compiler, *flags, "nothing.c", "-o", "nothing"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def sanitisers(compiler, tmp_path_factory):
    return SANITISED if builds(compiler, tmp_path_factory.mktemp("trial"), *SANITISED) else ()


def library_of(integers, names=None):
    n_classes = math.prod(integers.output.shape)
    return c_library.build(integers, names or [f"class {k}" for k in range(n_classes)], {"a": "b"})


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """The folder of the library of `BLOCK`, with its program."""
    folder, integers, x = tmp_path_factory.mktemp("library"), build(BLOCK), random_input()
    logits = np.asarray(simulate.simulator(integers)(x))
    files = library_of(integers, ['a "b"', "ä", "c*/"]) | c_library.test_vector(x, logits)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, integers


@pytest.mark.parametrize("name", [*NETWORKS, *MORE])
def test_c_computes_the_bits_of_the_program(compiler, sanitisers, name):
    """Under sanitisers; `slow` is what the simulation is compared with in test_quantisation."""
    integers, x = build((NETWORKS | MORE)[name]), random_input()
    flags = (*STRICT, "-O0", *sanitisers)
    with c_library.compiled(library_of(integers), compiler, flags) as compute:
        np.testing.assert_array_equal(compute(x), slow(integers, x).reshape(len(x), -1))


def test_test_vector_is_that_of_the_simulation_and_names_what_differs(compiler, block, tmp_path):
    shutil.copytree(block[0], tmp_path / "library")
    if shutil.which("make") is None:
        pytest.skip("no make here")
    command = ["make", "-C", tmp_path / "library", "test", f"CC={compiler}"]
    command.append(f"CFLAGS={' '.join(STRICT)} -O2")
    done = subprocess.run(command, capture_output=True, text=True)
    assert "OK: 6 clips, 3 logits each" in done.stdout, done.stderr
    path = tmp_path / "library" / "asc_test_vector.h"
    text, first = path.read_text(), re.compile(r"(asc_test_logits.*{\n    {\n    )(-?\d+),")
    value = int(first.search(text)[2])
    path.write_text(first.sub(rf"\g<1>{value ^ 1},", text))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f'clip 0, logit 0 (a "b"): {value}, expected {value ^ 1}' in done.stdout


def test_network_has_neither_heap_nor_floating_point(compiler, block, tmp_path):
    folder, _ = block
    for name in ("asc_model.c", "asc_kernels.c", "asc_kernels.h"):
        code = re.sub(r"/\*.*?\*/", "", (folder / name).read_text(), flags=re.S)
        assert not re.search(r"\b(float|double|malloc|calloc|realloc|free)\b|\d\.\d", code)
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    # Freestanding, so that -m32 needs no 32-bit headers; a compiler may lack the target.
    for flags in ((), ("-m32", "-ffreestanding")):
        objects = [tmp_path / name for name in ("asc_model.o", "asc_kernels.o")]
        for path in objects:
            source = folder / path.with_suffix(".c").name
            command = [compiler, *STRICT, "-O2", *flags, "-c", source, "-o", path]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0 or "-m32" in flags, done.stderr
        if done.returncode == 0:
            listed = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True)
            names = {line.split()[-1] for line in listed.stdout.splitlines() if " U " in line}
            assert {name.lstrip("_") for name in names} <= {
                *("asc_conv", "asc_add", "asc_avg_pool", "asc_max_pool", "asc_mean", "asc_copy"),
                *("GLOBAL_OFFSET_TABLE_", "stack_chk_fail", "x86.get_pc_thunk.bx"),
            }


# A program without a C library, because few machines have a 32-bit one: system calls of Linux.
WITHOUT_LIBC = """\
#include "asc_model.h"
static int8_t x[ASC_INPUT_BYTES], y[ASC_N_CLASSES];
static long call(long number, long file, const void *at, long n)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(file), "c"(at), "d"(n)
                     : "memory");
    return result;
}
void _start(void)
{
    while (call(3, 0, x, sizeof x) == (long)sizeof x) {
        asc_run(x, y);
        call(4, 1, y, sizeof y);
    }
    for (;;)
        call(1, 0, 0, 0);
}
"""


def test_32_bit_program_computes_the_same_bits(compiler, block, tmp_path):
    folder, integers = block
    (tmp_path / "start.c").write_text(WITHOUT_LIBC)
    flags = ("-m32", "-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector")
    sources = [tmp_path / "start.c", *(folder / name for name in c_library.NETWORK)]
    command = [compiler, *flags, "-nostdlib", "-static", "-I", folder, *sources]
    subprocess.run([*command, "-o", tmp_path / "start"], capture_output=True)
    x = random_input()
    (tmp_path / "x").write_bytes(x.tobytes())  # a file, because a pipe may give less at once
    try:
        with open(tmp_path / "x", "rb") as source:
            done = subprocess.run([tmp_path / "start"], stdin=source, capture_output=True)
    except OSError:
        pytest.skip("no 32-bit programs of Linux here")
    computed = np.frombuffer(done.stdout, np.int8).reshape(len(x), -1)
    np.testing.assert_array_equal(computed, slow(integers, x))


FLOATS = """\
#include <stdio.h>
#include "asc_float.h"
int main(void) {
    float x;
    while (fread(&x, sizeof x, 1, stdin) == 1)
        printf("%d %.9g\\n", asc_quantise(x), asc_logit(asc_quantise(x)));
    return 0;
}
"""


def test_log_mel_is_quantised_as_in_jax(compiler, block, tmp_path):
    folder, integers = block
    rng = np.random.default_rng(0)
    halves = (np.arange(-140, 140) + np.float32(0.5)) * integers.input.scale
    x = np.concatenate([halves, rng.uniform(-5, 7, 2_000), [0, 1e9, -1e9, np.inf, -np.inf]])
    x = x.astype(np.float32)
    (tmp_path / "floats.c").write_text(FLOATS)
    command = [compiler, *STRICT, "-O2", "-I", folder, tmp_path / "floats.c"]
    subprocess.run([*command, "-o", tmp_path / "floats"], check=True)
    done = subprocess.run([tmp_path / "floats"], input=x.tobytes(), capture_output=True, check=True)
    q, logits = np.array(done.stdout.split(), np.float64).reshape(-1, 2).T
    expected = np.asarray(simulate.quantise(integers.input, x))
    np.testing.assert_array_equal(q, expected)
    values = np.asarray(simulate.dequantise(integers.output, expected))
    np.testing.assert_allclose(logits, values, rtol=1e-6)


def random_program(rng):
    """Steps that read one or two of the last four results, and reshapes."""
    tensors, steps = [Tensor("t0", (8,), np.float32(1), 0)], []
    for number in range(1, rng.integers(2, 16)):
        (last, *_), name = tensors[::-1], f"t{number}"
        if rng.random() < 0.2:
            output = last.reshaped(name, (1, *last.shape))
            steps.append(Reshape((last,), output, None, -128, 127))
        else:
            inputs = (last, tensors[-rng.integers(1, min(4, len(tensors)) + 1)])
            output = last.reshaped(name, (int(rng.integers(1, 9)),))
            steps.append(Step(inputs[: rng.integers(1, 3)], output, None, -128, 127))
        tensors.append(output)
    return Program(tensors[0], steps)


def held(integers, number):
    """Names of the blocks that hold values during a step, by following every value."""
    of = arena.block_names(integers)
    made = {of[step.output.name] for step in integers.steps[: number + 1]}
    read = {of[x.name] for step in integers.steps[number:] for x in step.inputs}
    made_now = of[integers.steps[number].output.name]
    return (made & (read | {made_now})) - {of[integers.input.name], of[integers.output.name]}


def test_arena_holds_what_is_needed_at_one_time_and_no_two_overlap():
    rng, n_larger = np.random.default_rng(0), 0
    for _ in range(200):
        integers = random_program(rng)
        plan = arena.plan(integers)
        sizes = {step.output.name: math.prod(step.output.shape) for step in integers.steps}
        peaks = []
        for number in range(len(integers.steps)):
            blocks = sorted(held(integers, number), key=plan.offsets.get)
            peaks.append(sum(sizes[name] for name in blocks))
            for name, following in zip(blocks, blocks[1:], strict=False):
                assert plan.offsets[name] + sizes[name] <= plan.offsets[following]
            assert all(plan.offsets[name] + sizes[name] <= plan.n_bytes for name in blocks)
        assert plan.peak_bytes == max(peaks)
        assert plan.peak == integers.steps[int(np.argmax(peaks))].output.name
        n_larger += plan.n_bytes > plan.peak_bytes
    assert n_larger < 10  # measured: 3


def test_blocks_with_shortcuts_lose_no_memory():
    """The sizes of CP-Mobile's: a shortcut beside two expanded results."""

    def tensor(name, size):
        return Tensor(name, (size,), np.float32(1), 0)

    last, steps = tensor("log_mel", 9), []
    for number in range(4):
        parts = {"expand": 8, "depthwise": 8, "project": 4}
        block = [tensor(f"{number}/{part}", size) for part, size in parts.items()]
        for x, y in zip((last, *block), block, strict=False):
            steps.append(Step((x,), y, None, -128, 127))
        total = tensor(f"{number}/sum", 4)
        inputs = (block[-1],) if number == 0 else (last, block[-1])
        steps.append(Step(inputs, total, None, -128, 127))
        last = total
    plan = arena.plan(Program(tensor("log_mel", 9), steps))
    assert (plan.n_bytes, plan.peak_bytes, plan.peak) == (20, 20, "1/depthwise")


def test_compiler_that_does_not_work_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert c_library.compiler() is None
    stub = tmp_path / "cc"  # as on a Mac without its developer tools
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    assert c_library.compiler() is None


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["teachers.cp_mobile_126952", "tf_sepnet_40"])
def test_thousand_clips_have_the_same_logits_everywhere(compiler, name):
    """JAX, LiteRT's reference kernels, LiteRT for Microcontrollers if installed, and C."""
    pytest.importorskip("ai_edge_litert.interpreter")
    config = importlib.import_module(f"configs.{name}").get_config()
    _, log_mel, integers = quantised(config, n_clips=1024, n_calibration_clips=64)
    data, compute = litert.build(integers, {}), simulate.simulator(integers)
    by_litert = litert.load(data)
    with c_library.compiled(library_of(integers), compiler) as by_c:
        for start in range(0, len(log_mel), 64):
            x = np.asarray(simulate.quantise(integers.input, log_mel[start : start + 64]))
            ours = np.asarray(compute(x))
            np.testing.assert_array_equal(ours, by_litert(x))
            np.testing.assert_array_equal(ours, by_c(x))
            np.testing.assert_array_equal(ours, by_microcontroller(data, x, ours))


@pytest.mark.slow
@pytest.mark.nightly
def test_run_becomes_a_library_that_was_compared_first(compiler, tmp_path, monkeypatch):
    workdir, out = save_mini(tmp_path / "run"), tmp_path / "out"
    options = {"out_dir": out, "clips": small_clips(40), "n_calibration_clips": 12, "kind": "c"}

    def export():
        return "\n".join(run.export_int8(workdir, small_clips(30, seed=1), **options))

    text = export()
    assert f"int8 in JAX and by the functions in C (compiled by {compiler}), the same bits" in text
    assert "arena: " in text
    assert "front end: 32,000 Hz, " in text
    assert "compared on 256 clips, 216 of them synthetic noise" in text
    folder = out / "asc_int8"
    assert {path.name for path in folder.iterdir()} == {
        *("asc_model.h", "asc_model.c", "asc_kernels.h", "asc_kernels.c", "asc_float.h"),
        *("asc_test_vector.h", "test.c", "run.c", "Makefile", "CMakeLists.txt"),
        *("asc_features.h", "asc_features.c", "asc_features_tables.h", "log_mel.c"),
    }
    if shutil.which("make"):
        done = subprocess.run(["make", "-C", folder, "test"], capture_output=True, text=True)
        assert "OK: 3 clips, 10 logits each" in done.stdout, done.stderr
    shutil.rmtree(out)
    monkeypatch.setattr(c_library, "compiler", lambda: None)
    assert "the C library was not run: no compiler here (cc, gcc, clang)" in export()
    shutil.rmtree(out)
    monkeypatch.undo()
    true = c_library.build

    def wrong(*args):
        files = true(*args)
        changed = files["asc_kernels.c"].replace(b"<< 30", b"<< 29")
        return files | {"asc_kernels.c": changed}

    monkeypatch.setattr(c_library, "build", wrong)
    with pytest.raises(UserError, match=r"the functions in C \(compiled by .*\) give .* differ by"):
        export()
    assert not out.exists()
