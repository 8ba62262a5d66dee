"""Every command of README and the pages does what the page says, as printed.

By day pages whose commands train nothing; by night all of them. Trainings, data sets and
benchmarks are small: what is added to a program's words is in `scaled`.
"""

import contextlib
import re
import shutil
from pathlib import Path
from unittest import mock

import pages
import pytest
import shell
import stand_in
from page_folders import EPOCHS, FOLDERS, IN_A_COPY, NETWORK
from small import SMALL_FLAGS

import asc_jax
from asc_jax.challenge.submission import check as submission_check
from asc_jax.data.synthetic import scenes
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.evaluation.campaign import processes
from asc_jax.pytorch.parity import table as parity

BY_DAY = ("README.md", "docs/commands.md", "docs/files.md")
INSTALLERS = ("pip", "apt-get")  # what they install is there, or cannot be here
NEEDS = {  # optional packages and programs
    "docs/export.md": ("torch", "onnxruntime"),
    "docs/quantisation.md": ("onnxruntime", "ai_edge_litert"),
    "docs/parity.md": ("torch",),
    "docs/performance.md": ("torch",),
}
PROGRAMS = {"examples/microcontroller/README.md": ("arm-none-eabi-gcc", "qemu-system-arm")}
# What may differ from a run to the next, and what it then looks like.
VALUE = re.compile(
    rf"(?P<clip>(?:{'|'.join(SCENES)})-[\w-]+\.wav)|(?P<scene>\b(?:{'|'.join(SCENES)})\b)"
    r"|(?P<number>(?<![\w/.])\d(?:[\w,.]*\w)?)"
)
SHAPES = {"clip": r"[\w-]+\.wav", "scene": "[a-z_]+", "number": r"[\w,.]+"}


def scaled(words):
    """Return the words that make a command of a page cheap, which come after its own."""
    program, *rest = words
    if program == "python":
        return of_program(" ".join(rest))
    verb = rest[0].replace("_", "-") if rest else ""
    if {"--help", "--example_author_file"} & {*rest}:
        return []
    if verb == "synthesize":
        return ["--n_train_segments=1", "--n_test_segments=1"]
    if verb == "train":
        return [*EPOCHS, *of_config(rest)]
    return []


def of_program(words):
    if words.startswith("-m benchmarks.int8_accuracy"):
        return ["--seeds=0", "--epochs=1", *SMALL_FLAGS, f"--config.model.name={NETWORK}", *EPOCHS]
    if words.startswith("-m benchmarks "):
        peers = [] if "--contestants" in words else ["--contestants=torch"]
        return ["--toy", "--repeats=1", *peers]
    if words.startswith("-m tests.faults"):
        return ["--n=1", "--in_process"]
    if words.startswith("-m tests.fuzz"):
        return ["--n=2", *([] if "--only" in words else ["--only=wav"])]
    return []


def of_config(words):
    """A small front end, and a network that compiles soon unless it is a page's own."""
    own = "my_config.py" in words
    return [*SMALL_FLAGS] if own else [*SMALL_FLAGS, f"--config.model.name={NETWORK}"]


def without_installers(code):
    """Leave out the lines of a step that install packages."""
    lines = pages.lines_of(code)
    return "\n".join(line for line in lines if line.split()[:1] not in [[p] for p in INSTALLERS])


def pattern_of(line):
    """A regular expression of lines of the same shape: values may differ, words may not."""
    line, pattern, end = " ".join(line.split()), "", 0
    for found in VALUE.finditer(line):
        pattern += re.escape(line[end : found.start()]) + SHAPES[found.lastgroup]
        end = found.end()
    pattern += re.escape(line[end:])
    return rf"\s*{pattern}\s*".replace(r"\ ", r"\s+")


def check_shown(shown, output, folder):
    """Raise an error unless all lines of a page are printed in this order, or are files."""
    printed = iter(output.splitlines())
    for line in shown.splitlines():
        if line.strip() in ("", "…") or (folder / line.strip()).is_file():
            continue
        pattern = pattern_of(line)
        assert any(re.fullmatch(pattern, each) for each in printed), f"{line}\nnot in\n{output}"


def few(plan):
    """Return those recordings of `plan` that are of two scenes and of two devices."""

    def planned(*args):
        found = [each for each in plan(*args) if each.segment.scene in ("airport", "bus")]
        return [each for each in found if each.device in ("a", "s4")] or found

    return planned


SMALLER = (
    (scenes, "_plan_train", few(scenes._plan_train)),
    (scenes, "_plan_test", few(scenes._plan_test)),
    (submission_check, "N_EVALUATION_CLIPS", 3),
    (processes, "carry_out", stand_in.carry_out),
    (processes, "make", stand_in.make),
    (parity, "STAGES", tuple(s for s in parity.STAGES if "trajectory" not in s.__name__)),
)


@contextlib.contextmanager
def small_world():
    """Few synthetic scenes, stages and evaluation clips, and no long campaigns."""
    with contextlib.ExitStack() as stack:
        for target, name, value in SMALLER:
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def with_steps(names):
    steps = {pages.of(path): pages.steps_of(path.read_text("utf-8")) for path in pages.PAGES}
    for name, of_page in steps.items():
        codes = [without_installers(step.code) for step in of_page if step.reason is None]
        if any(codes):
            marks = () if name in names else pytest.mark.nightly
            yield pytest.param(name, marks=marks, id=name)


@pytest.mark.filterwarnings("ignore")  # of the packages that read and write other formats
@pytest.mark.parametrize("name", [*with_steps(BY_DAY)])
def test_commands_of_a_page_run_and_print_what_it_shows(name, tmp_path, compiled_fast):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    for program in PROGRAMS.get(name, ()):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    steps = pages.steps_of((pages.ROOT / name).read_text("utf-8"))
    steps = [step for step in steps if step.reason is None and without_installers(step.code)]
    folder = tmp_path if name in IN_A_COPY else shell.clone(tmp_path)
    with small_world():
        FOLDERS.get(name, lambda folder: None)(folder)
        codes = [without_installers(step.code) for step in steps]
        outputs, status = shell.run(codes, folder, scaled)
    assert status == 0, f"{steps[len(outputs) - 1].code}\n{outputs[-1]}"
    files = folder / Path(name).parent if name in IN_A_COPY else folder
    for step, output in zip(steps, outputs, strict=True):
        check_shown(step.shown, output, files)


def test_mark_without_a_reason_is_an_error():
    for mark in ("<!-- not run -->", "<!-- not run: -->", "<!-- not run:   -->"):
        with pytest.raises(ValueError, match="expected <!-- not run: REASON -->"):
            pages.steps_of(f"Text. {mark}\n\n    asc-jax train --config a.py\n")


def test_steps_have_their_reasons_and_what_the_page_shows():
    page = "Call `asc-jax --help` or `asc-jax eval`; not `asc-jax eval --workdir …`.\n\n"
    page += "    make demo\n\n    done: 1\n\nNow <!-- not run: needs\n a GPU -->\n\n"
    page += "```bash\nasc-jax predict - \\\n    --rate 8\n```\n\n# Next\n\n    no output\n"
    assert pages.steps_of(page) == [
        pages.Step("asc-jax --help", inline=True),
        pages.Step("make demo\n", shown="done: 1\n"),
        pages.Step("asc-jax predict - \\\n    --rate 8\n", reason="needs a GPU"),
    ]


def test_shape_of_a_line_is_its_words_and_not_its_values(tmp_path):
    line = "bus-lyon-1-2-0-a.wav  0.00 s  street_traffic 22.5 %, 1,466 bytes in float16 → runs/a"
    other = "tram-paris-7-8-0-s4.wav 10.5 s   bus 9.1 %, 2 bytes in float16 → runs/a"
    check_shown(f"{line}\n…\n", f"first\n  {other}\nlast\n", tmp_path)
    for wrong in (other.replace("bytes", "kB"), other.replace("float16", "float32"), f"{other}b"):
        with pytest.raises(AssertionError, match="not in"):
            check_shown(line, wrong, tmp_path)
    with pytest.raises(AssertionError, match="a 2\n +not in"):
        check_shown("b 1\na 2", "a 5\nb 6\n", tmp_path)


def test_commands_run_in_one_shell_up_to_the_first_that_fails(tmp_path):
    codes = ["export A=x\nasc-jax --version > said", "echo $A; cat said", "cat missing", "echo y"]
    outputs, status = shell.run(codes, tmp_path)
    assert status != 0
    assert outputs[:2] == ["", f"x\nasc-jax {asc_jax.__version__}\n"]
    assert len(outputs) == 3


def test_targets_of_make_that_pages_name_exist():
    made = [*pages.ROOT.glob("Makefile"), *pages.ROOT.glob("*/*/Makefile")]
    made += pages.ROOT.glob("asc_jax/*/*/Makefile")
    targets = {name for path in made for name in re.findall(r"^(\w+):", path.read_text(), re.M)}
    for path in pages.PAGES:
        assert {*re.findall(r"`make ([a-z_]+)`", path.read_text("utf-8"))} <= targets, path
