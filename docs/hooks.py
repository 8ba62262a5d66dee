"""Fill the site of `make docs` with what lies elsewhere in the repository.

README.md, CHANGELOG.md, CONTRIBUTING.md, SECURITY.md and the page of each folder of `examples/`
become pages. The pages of commands and of config keys get the help of every command and the keys of
`configs/base.py`. Links between all of these work on the site as they do in the repository; a link
to any other file becomes its name.
"""

import importlib
import posixpath
import re
from pathlib import Path

from absl import flags
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
DOCS = "docs"
# Page of the site → its file, from the root of the repository.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
EXAMPLES = {
    f"{page.parent.name}.md": page.relative_to(ROOT).as_posix()
    for page in sorted(ROOT.glob("examples/*/README.md"))
}
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def on_config(config):
    """Add the examples to the tutorials."""
    tutorials = next(each["Tutorials"] for each in config.nav if "Tutorials" in each)
    tutorials[2:2] = [{title(file): page} for page, file in EXAMPLES.items()]
    return config


def on_files(files, config):
    """Add the pages whose files lie outside `docs/`."""
    for page, file in (PAGES | EXAMPLES).items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text("utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in the references, and turn links into those of the site."""
    name = page.file.src_uri
    if name == "commands.md":
        markdown += commands()
    if name == "config_keys.md":
        markdown += config_keys()
    folder = posixpath.dirname((PAGES | EXAMPLES).get(name, f"{DOCS}/{name}"))
    return LINK.sub(lambda link: site_link(link, folder), markdown)


def title(file: str) -> str:
    """Return the first heading of a file."""
    return re.search(r"^# (.*)", (ROOT / file).read_text("utf-8"), re.MULTILINE)[1]


def site_link(link: re.Match, folder: str) -> str:
    """Return a link of a file in this folder as the site has it."""
    target, hash_, anchor = link["target"].partition("#")
    if not target or ":" in target:
        return link[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    by_file = {file: page for page, file in (PAGES | EXAMPLES).items()}
    if path.startswith(f"{DOCS}/") and path.endswith((".md", ".png")):
        page = path.removeprefix(f"{DOCS}/")
    else:
        page = by_file.get(path) or by_file.get(f"{path}/README.md")
    if page:
        return f"[{link['text']}]({page}{hash_}{anchor})"
    return f"`{path}`" if link["text"].strip("`") == path else f"{link['text']} (`{path}`)"


def commands() -> str:
    """Return a section for each command, with its help."""
    from asc_jax import cli

    return "".join(f"\n## {verb}\n\n```text\n{help_of(verb)}\n```\n" for verb in cli.VERBS)


def help_of(verb: str) -> str:
    """Return what `asc-jax VERB --help` prints."""
    from asc_jax import cli

    module = importlib.import_module(f"asc_jax.cli.{verb.replace('-', '_')}")
    known = {*flags.FLAGS}
    module.define_flags()
    own = [name for name in flags.FLAGS if name not in known]
    text = cli.help_text(module.__doc__, [flags.FLAGS[name] for name in own])
    for name in own:  # the next command may have a flag of the same name
        delattr(flags.FLAGS, name)
    return text


def config_keys() -> str:
    """Return a table for each section of `configs/base.py`."""
    from asc_jax.cli.config import read_comments
    from asc_jax.cli.config_flag import CONFIGS, flat, read_config

    comments = read_comments((CONFIGS / "base.py").read_text("utf-8"))
    sections: dict[str, list[str]] = {}
    for key, value in flat(read_config("base.py", []).to_dict()).items():
        section = ".".join(key.split(".")[:2])
        rows = sections.setdefault(section, [])
        name = key.removeprefix(f"{section}.").removeprefix("config.")
        meaning = "" if key == section else " ".join(comments.get(key, ()))
        cells = f"`{name}`", f"`{value!r}`", meaning
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = ""
    for section, rows in sections.items():
        about = " ".join(comments.get(section, ()))
        text += f"\n## {section}\n\n{about}\n\n| key | default | meaning |\n|---|---|---|\n"
        text += "\n".join(rows) + "\n"
    return text
