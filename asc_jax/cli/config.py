"""Print every value of a config, with its meaning.

usage: asc-jax config show NAME

NAME is a config file, a name such as splits/5pct.py that comes with asc_jax, or the folder of a
run. A value is changed on the command line of the other verbs with --config.SECTION.KEY=VALUE.

examples:
  asc-jax config show splits/5pct.py
  asc-jax config show splits/5pct.py | grep optim

exit status: 0 printed, 2 wrong input
"""

import itertools
import pathlib
import re
from collections.abc import Sequence

from asc_jax.cli import run
from asc_jax.cli.config_flag import CONFIGS, flat, read_config
from asc_jax.errors import UserError


def define_flags() -> None:
    """Define no flags."""


def main(argv: Sequence[str]) -> None:
    """Print the config that the command line names."""
    if len(argv) != 3 or argv[1] != "show":
        raise UserError("which config? For example: asc-jax config show splits/5pct.py")
    name = argv[2]
    if pathlib.Path(name).is_dir():
        from asc_jax.training.workdir import run_config  # imports JAX

        config = run_config.load(name)[1]
    else:
        config = read_config(name, [])
    comments = read_comments((CONFIGS / "base.py").read_text("utf-8"))
    for key, value in flat(config.to_dict()).items():
        for owner in itertools.accumulate(key.split("."), "{}.{}".format):  # sections, then the key
            print("".join(f"# {line}\n" for line in comments.pop(owner, ())), end="")
        print(f"{key} = {value!r}")


def read_comments(source: str) -> dict[str, list[str]]:
    """Return the comments of a config file, by the key or section that they stand above.

    Example:
      >>> read_comments("# Clips of all replicas.\\nconfig.data.batch_size = 256  # not 128")
      {'config.data.batch_size': ['Clips of all replicas.', 'not 128']}
    """
    comments, above = {}, []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("#"):
            above.append(line.lstrip("# "))
        elif match := re.match(r"(config[\w.]*) = [^#]*(?:# *(.*))?", line):
            if lines := above + [match[2]] * bool(match[2]):
                comments[match[1]] = lines
            above = []
        else:
            above = []
    return comments


if __name__ == "__main__":
    run(main, define_flags)
