"""Lines of a page in bash, where `asc-jax` and `python` ask the process of the tests.

So redirections, pipes, patterns and variables are those of a shell, and a verb costs no start of a
process: `commands.call` runs it here.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from commands import call
from pages import ROOT

END = "==== end of step"
POLL_S = 0.2  # how often it is asked whether bash has ended
# Its answer is what a verb printed, or a program to become.
ASKS = """\
#!{python} -IS
import json, os, socket, sys
stdin = sys.stdin.buffer.read().decode("latin-1") if "-" in sys.argv[1:] else ""
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({address!r})
    program = os.path.basename(sys.argv[0])
    asked.sendall(json.dumps([program, sys.argv[1:], os.getcwd(), stdin]).encode())
    asked.shutdown(socket.SHUT_WR)
    answer = json.loads(asked.makefile("rb").read())
if "become" in answer:
    os.execv(answer["become"][0], answer["become"])
print(answer["out"], end="")
print(answer["err"], end="", file=sys.stderr)
sys.exit(answer["status"])
"""


def clone(folder):
    """Make a folder look like the clone, without its data and runs, and with a `.venv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in ROOT.iterdir():
        if path.name[0] != "." and path.name not in ("data", "runs", "build", "site"):
            (folder / path.name).symlink_to(path)
    return folder


def run(codes, folder, scaled=lambda words: []):
    """Run pieces of shell code one after the other in one shell.

    Args:
      codes: the pieces; the first that fails ends it.
      folder: where they are run.
      scaled: the words of a program → the words that are added to them.

    Returns:
      `(output of each piece, standard error included, exit status of the last)`.
    """
    script = "\n".join(["set -e -o pipefail", *(f"{code}\necho '{END}'" for code in codes)])
    with contextlib.ExitStack() as stack:
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(scratch / "ask"))
        server.listen()
        server.settimeout(POLL_S)
        programs = _programs(folder, str(scratch / "ask"))
        paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "BENCH_FLAGS": "--toy --repeats=1 i",  # one part of `make bench`
        }
        with (scratch / "said").open("wb") as said:
            bash = subprocess.Popen(
                ["bash", "-c", script],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            with bash:
                try:
                    while bash.poll() is None:
                        with contextlib.suppress(TimeoutError):
                            _answer(server.accept()[0], scaled)
                finally:
                    bash.kill()
        outputs = (scratch / "said").read_text("utf-8", "replace").split(f"{END}\n")
    return outputs[: len(codes)], bash.returncode


def _programs(folder, address):
    """Write `.venv/bin` with what is found first by the shell and by make; return it."""
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("asc-jax", "python"):
        (programs / name).write_text(ASKS.format(python=sys.executable, address=address))
        (programs / name).chmod(0o755)
    (programs / "activate").write_text("")
    later = time.time() + 3600
    for name in (".installed", ".interop", ".docs"):
        (folder / ".venv" / name).touch()
        os.utime(folder / ".venv" / name, (later, later))
    return programs


def _answer(asked, scaled):
    """Run what a program asks for, and tell it what was printed."""
    with asked:
        program, words, cwd, stdin = json.loads(asked.makefile("rb").read())
        if program == "python" and words[:2] == ["-m", "asc_jax"]:
            program, words = "asc-jax", words[2:]
        words += scaled([program, *words])
        if program == "python":
            answer = {"become": [sys.executable, *words]}
        elif any(
            word.startswith("--replicas") for word in words
        ):  # a process has as many as it has
            answer = {"become": [sys.executable, "-m", "asc_jax", *words]}
        else:
            done = call(*words, cwd=cwd, stdin=stdin.encode("latin-1"))
            answer = {"out": done.stdout, "err": done.stderr, "status": done.returncode}
        asked.sendall(json.dumps(answer).encode())
