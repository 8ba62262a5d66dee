"""The commands that README and the pages show: in blocks and in sentences, in their order.

A comment `<!-- not run: REASON -->` in the paragraph before a block, or in the paragraph of a
command in a sentence, leaves these out of what `test_docs_commands.py` runs.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
PAGES = [README, *DOCS, *EXAMPLES]
SHELL = ("sh", "bash", "console")
# What a line of a block without a language begins with if it is a command and not output.
PROGRAMS = (
    *("asc-jax", "python", "make", "pip", "jupytext", "jupyter", "apt-get"),
    *("git", "cd", "export", "srun", "gcloud", "ffmpeg"),
)
TO_FILL_IN = {"ETC", "VERB", "NAME", "FILE", "DIR", "RUN"}  # ETC: … on the page


class Step(NamedTuple):
    """Commands of a page that run together, as a shell reads them.

    code: the lines as printed. shown: what the page prints as their output. reason: why they are
    not run, None where they are. inline: a command in a sentence.
    """

    code: str
    shown: str = ""
    reason: str | None = None
    inline: bool = False


def of(path):
    return path.relative_to(ROOT).as_posix()


def parts_of(text):
    """Yield paragraphs `("", text)` and blocks `(language, code)`; four spaces make a `text` block.

    Of these a blank line ends one, as between commands and what they print.
    """
    code = r"^```(?P<language>\w*)\n(?P<fenced>(?s:.*?))^```\n?"
    code += r"|(?:(?<=\n\n)|\A)(?P<indented>(?:    .*\n(?:\n(?=    ))?)+)"
    end = 0
    for found in re.finditer(code, text, re.MULTILINE):
        yield from (("", paragraph) for paragraph in text[end : found.start()].split("\n\n"))
        if found["indented"] is None:
            yield found["language"] or "text", found["fenced"]
        else:
            block = re.sub(r"^    ", "", found["indented"], flags=re.MULTILINE)
            yield from (("text", part + "\n") for part in block.rstrip("\n").split("\n\n"))
        end = found.end()
    yield from (("", paragraph) for paragraph in text[end:].split("\n\n"))


def blocks_of(text):
    """Return the code blocks of a page that may hold commands."""
    return [code for language, code in parts_of(text) if language in ("text", *SHELL)]


def lines_of(code):
    """Return the lines of a block, those that a backslash continues as one."""
    return re.sub(r"\\\n\s*", "", code).splitlines()


def commands_in(line):
    """Yield what a line has that starts one of this package's programs."""
    for command in re.split(r"[|;&] ?(?=asc-jax )|&& ", line):
        start = re.search(r"(?:^|[\s\"/])((?:asc-jax|python) [^\s].*)", command)
        before = command[: start.start(1)] if start else "x x"
        allowed = (r"(\w+=\S+ )*(\S*bin/)?", r"(srun|gcloud) .*")
        if start and any(re.fullmatch(pattern, before) for pattern in allowed):
            odd = start[1].count('"') % 2  # the end of --command="…"
            yield "".join(start[1].rsplit('"', 1)) if odd else start[1]


def inline_of(paragraph):
    """Return the code that stands in a paragraph."""
    return [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", paragraph)]


def commands_of(text):
    """Return what starts one of this package's programs, in blocks and in sentences, in order."""
    lines = []
    for language, content in parts_of(text):
        if not language:
            lines += inline_of(content)
        elif language in ("text", *SHELL):
            lines += lines_of(content)
    return [command for line in lines for command in commands_in(line)]


def words_of(command):
    """Return the words of a command, its comment left out."""
    command = re.sub(r" +# .*", "", command)
    return shlex.split(command.replace("…", "ETC"))


def is_template(command):
    """Return whether it is a verb alone, which is a name, or has … or a word to fill in."""
    program, *words = words_of(command)
    name = program == "asc-jax" and len(words) == 1 and not words[0].startswith("-")
    return name or any(word.rpartition("=")[2] in TO_FILL_IN for word in words)


def reason_of(paragraph):
    """Return why what follows is not run; None where nothing says so.

    Raises:
      ValueError: a mark without a reason.
    """
    mark = re.search(r"<!-- *not run(.*?)-->", paragraph, re.DOTALL)
    if mark is None:
        return None
    reason = re.fullmatch(r": +(\S.*?) *", " ".join(mark[1].split() + [""]))
    if reason is None:
        raise ValueError(f"{mark[0]}: expected <!-- not run: REASON -->")
    return reason[1]


def has_commands(language, code):
    """Return whether a block is one of commands and not of output or of a file's content."""
    if language != "text":
        return language in SHELL
    first = re.sub(r"^(\w+=\S+ |\S*bin/)+", "", code.lstrip()).split()
    return bool(first) and (first[0] in PROGRAMS or first[0] == ".")


def steps_of(text):
    """Return the steps of a page in their order, those that are not run included."""
    steps, reason, before = [], None, None  # before: the number of the section's last block
    for language, content in parts_of(text):
        if not language:
            if not content.strip():
                continue
            reason = reason_of(content)
            if re.search(r"^#", content, re.MULTILINE):
                before = None
            commands = [c for words in inline_of(content) for c in commands_in(words)]
            steps += [Step(c, reason=reason, inline=True) for c in commands if not is_template(c)]
        elif has_commands(language, content):
            before = len(steps)
            steps.append(Step(content, reason=reason))
        elif language == "text" and before is not None:
            steps[before] = steps[before]._replace(shown=steps[before].shown + content)
    return steps
