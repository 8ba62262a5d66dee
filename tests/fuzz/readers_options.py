"""Readers of the command line, of author files and of a finished submission."""

import json
from random import Random

import yaml
from absl import flags

from asc_jax.challenge.submission import author as submission_author
from asc_jax.challenge.submission import check as submission_check
from asc_jax.challenge.submission.package import write_zip
from asc_jax.cli import config_flag
from asc_jax.data import recordings
from asc_jax.data.tau.taxonomy import DEVICES, SCENES
from asc_jax.training import config_checks

from . import mutate
from .judge import MAX_MESSAGE, Reader

LABEL = "Doe_UNI_task1_1"


def options(scratch) -> Reader:
    """Words of a command line, zeros between them: flags of a command and of its config."""
    seeds = (
        b"--config.schedule.peak_lr=1e-3\0--config.train.n_epochs=3",
        b"--config.model.grn=True\0--config.model.activation=relu6\0--config.seed=7",
        b"--config.features.n_mels=64\0--config.data.dir=x\0--config.budget.enforce=False",
        b"--hop_s=0.5\0--top_k=3\0--format=json\0--nowindows\0a.wav",
        b"--rate\x0048000\0--channels\x002\0--splits=5,10\0-",
    )

    def read(data):
        words = data.decode("utf-8", "surrogateescape").split("\0")
        words = [word for word in words if "help" not in word and "flagfile" not in word]
        if any(word.startswith(("--config", "-config")) for word in words):
            config_checks.check_values(config_flag.read_config("base.py", words))
        else:
            config_flag.parse(["command", *words], _flags())

    words = (
        *(b"--", b"=", b"config.", b"--config.model", b"(1,2)", b"[]", b"{}", b"lambda:0", b"None"),
        *(b"\0", b"True", b"1e400", b"\xff", b"--no", b"seed", b"optim.", b"__class__"),
    )
    return Reader(read, lambda rng, seed: mutate.of_bytes(rng, seed, words), seeds)


def _flags() -> flags.FlagValues:
    """Flags of every kind that our commands have."""
    values = flags.FlagValues()
    where = {"flag_values": values}
    flags.DEFINE_float("hop_s", 1.0, "", **where)
    flags.DEFINE_integer("top_k", 3, "", **where)
    flags.DEFINE_integer("rate", None, "", **where)
    flags.DEFINE_integer("channels", 1, "", **where)
    flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "", **where)
    flags.DEFINE_enum("sample_format", "s16le", [*recordings.SAMPLE_FORMATS], "", **where)
    flags.DEFINE_bool("windows", True, "", **where)
    flags.DEFINE_list("splits", [], "", **where)
    flags.DEFINE_string("workdir", None, "", **where)
    return values


YAML_WORDS = (
    *(
        b"&a",
        b"*a",
        b"<<: ",
        b"!!python/object/apply:os.system ['false']",
        b"!!int ''",
        b"!!float x",
    ),
    *(
        b"!!timestamp x",
        b"!!binary x",
        b"!!bool x",
        b"!!set {}",
        b"!!omap [1]",
        b"? ",
        b"- ",
        b": ",
    ),
    *(
        b"|\n",
        b">\n",
        b"%YAML 9.9\n",
        b"---\n",
        b"...\n",
        b"#",
        b"{",
        b"[",
        b"]",
        b"}",
        b"2001-99-99",
    ),
    *(b"[*a,*a,*a,*a,*a,*a,*a,*a]", b"0b2", b"1:99:99", b"\t", b"!<x>", b"!!null x", b".inf"),
)


def _spoil_yaml(rng: Random, seed: bytes) -> bytes:
    if rng.randrange(2):
        return mutate.of_bytes(rng, seed, YAML_WORDS)
    # YAML reads JSON, and quicker than it writes YAML
    tree = mutate.of_tree(rng, yaml.load(seed, yaml.CSafeLoader))
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def author(scratch) -> Reader:
    """An author file."""
    path = scratch / "author.yaml"
    text = submission_author.EXAMPLE
    short = "\n".join(line.split("  #")[0] for line in text.splitlines()[1:])
    one = text[: text.index("    - lastname: Roe")].split("\n", 1)[1]

    def read(data):
        path.write_bytes(data)
        submission_author.read_author(path)

    return Reader(read, _spoil_yaml, (short.encode(), one.encode()))


def _package(scratch) -> tuple:
    """A good entry: its folder, the text of an output and that of the meta file."""
    folder = scratch / "task1" / LABEL
    folder.mkdir(parents=True)
    lines = ["\t".join(("filename", "scene_label", *SCENES))]
    for i, scene in enumerate(SCENES[:4]):
        lines.append("\t".join((f"{i}.wav", scene, *(str(float(s == scene)) for s in SCENES))))
    output = ("\n".join(lines) + "\n").encode()
    figures = {"accuracy": 50.0, "logloss": 1.0}
    split = {
        "overall": figures,
        "class_wise": dict.fromkeys(SCENES, figures),
        "device_wise": dict.fromkeys(DEVICES, figures),
    }
    meta = {
        "submission": yaml.safe_load(submission_author.EXAMPLE)["submission"],
        "system": {
            "description": dict.fromkeys(submission_author.DESCRIPTION, "x"),
            "complexity": {"total_model_size": 1, "total_parameters": 1, "macs": 1},
            "external_datasets": [],
            "source_code": None,
        },
        "results": {"development_dataset": dict.fromkeys(submission_check.SPLITS, split)},
    }
    for name in submission_check.SPLITS:
        (folder / f"{LABEL}.output.{name}.csv").write_bytes(output)
    meta = json.dumps(meta).encode()
    (folder / f"{LABEL}.meta.yaml").write_bytes(meta)
    return folder, output, meta


def package(scratch) -> Reader:
    """A csv file of a submission, the others being good; of the meta file, only its name."""
    folder, output, _ = _package(scratch)
    path = folder / f"{LABEL}.output.split_25.csv"
    (folder / f"{LABEL}.meta.yaml").write_text("a: 1")

    def read(data):
        path.write_bytes(data)
        _demand_lines(submission_check.check(scratch, practice=True))

    return Reader(read, mutate.of_bytes, (output,))


def package_zip(scratch) -> Reader:
    """The zip of a submission."""
    _package(scratch)
    path = scratch / "x.zip"
    good = write_zip(scratch).read_bytes()

    def read(data):
        path.write_bytes(data)
        _demand_lines(submission_check.check(path, practice=True))

    return Reader(read, mutate.of_bytes, (good,))


def meta(scratch) -> Reader:
    """The meta file of a submission, the rest being good."""
    folder, _, text = _package(scratch)

    def read(data):
        (folder / f"{LABEL}.meta.yaml").write_bytes(data)
        _demand_lines(submission_check.check(scratch, practice=True))

    return Reader(read, _spoil_yaml, (text,))


def _demand_lines(problems) -> None:
    """Each is one line that can be printed."""
    for problem in problems:
        if not (problem.isprintable() and 0 < len(problem) < MAX_MESSAGE):
            raise AssertionError(f"{len(problem)} characters: {problem[:200]!r}")
