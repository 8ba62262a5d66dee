"""README and the pages: links, commands, the words of the glossary, and the site's contents."""

import ast
import importlib
import re
import sys
from unittest import mock

import pytest
import yaml
from absl import flags
from pages import DOCS, PAGES, README, ROOT, commands_of, of, words_of

import asc_jax
from asc_jax import cli
from asc_jax.cli.config_flag import CONFIGS, flat, read_config

LINKED = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
MAX_WORDS = 40  # of a sentence in README
MAX_WORDS_OF_PAGES = 45
MAX_LINES = 120
WITH_WORDS = {"predict", "submission", "config", "compare"}  # verbs that take more than flags
# Words of the glossary that have one meaning → what is written instead.
GLOSSARY = {
    r"made[- ]up": "synthetic",
    r"spoil(t|ed)?": "corrupted",
    r"mend(s|ed|ing)?": "fixed",
    r"broken off": "interrupted",
    r"(go|goes|going|went|gone) on": "resume, continue",
    r"(hold|holds|held|holding) against": "compare with, check",
    r"refus(e|es|ed|al|als|ing)": "reject, raise an error",
    r"hand(s|ed|ing)? in": "submission, submit",
    r"floors?": "layer",
    r"number formats?": "dtype",
    r"whole files": "atomic writes",
    r"peers?": "reference implementation",
    r"taken for": "misclassified as",
    r"(a|the|of|what|this|same) shares?(?! a\b)": "fraction",
    r"(how|is|are|was|surest|less|more|not) sure": "confidence",
    r"surest": "highest confidence",
    r"(is|are|was|were|be|get|gets) right(?! now)": "correct",
    r"(training|evaluation|test) lists?": "split",
    r"chance of training": "seed variance",
    r"named (as|so)": "predicted",
}


def prose_of(text):
    """The text of a page without code and without the targets of links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?:    .*\n(?:\n(?=    ))?)+", "", text)
    text = re.sub(r"`[^`]*`", "CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sentences_of(text):
    """The sentences of a page; a cell of a table and a point of a list end one."""
    for paragraph in re.split(r"\n\s*\n|\n(?=[-*|#] ?)|\|", prose_of(text)):
        yield from re.split(r"(?<=[.:!?])\s+", " ".join(paragraph.split()))


@pytest.fixture(scope="module")
def flags_of():
    """`flags_of(verb)` → name → flag."""
    known = {}

    def find(verb):
        if verb not in known:
            module = importlib.import_module(f"asc_jax.cli.{verb.replace('-', '_')}")
            before = {*flags.FLAGS}
            with mock.patch.object(sys, "argv", ["asc-jax"]):
                module.define_flags()
            own = [name for name in flags.FLAGS if name not in before]
            known[verb] = {name: flags.FLAGS[name] for name in own}
            for name in own:
                delattr(flags.FLAGS, name)
        return known[verb]

    return find


def check_verb(verb, words, own, page):
    """Raise an error unless the verb takes these words; return those that are no flags."""
    rest, words, config = [], list(words), "base.py"
    overrides = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--help", "-h"):
            continue
        if not name.startswith("--"):
            rest.append(word)
            continue
        name = name.removeprefix("--").replace("-", "_")
        if "." in name:
            assert equals, f"{word}: no value"
            overrides.append(name)
            continue
        negated = name.removeprefix("no")
        if name not in own and negated in own and own[negated].boolean:
            continue
        assert name in own, f"asc-jax {verb} has no flag --{name}"
        if own[name].boolean and not equals:
            continue
        value = value if equals else words.pop(0)
        if name in ("config", "student", "teacher", "against"):
            beside = [CONFIGS / value, page.parent / value]
            written = f"`{value}`" in page.read_text("utf-8") or value.isupper()
            assert written or any(path.is_file() for path in beside), f"no config {value}"
            config = value if (CONFIGS / value).is_file() else config
        elif not value.isupper():
            own[name].parser.parse(value)
    keys = {".".join(key.split(".")[1:]) for key in flat(read_config(config, []).to_dict())}
    for name in overrides:
        key = name.partition(".")[2]
        assert key in keys or key.isupper() or "." not in key, f"{config} has no key {key}"
    return rest


def check_program(words, page):
    """Raise an error unless these are words of a program of the repository, run by python."""
    if words[0] == "-c":
        compile(words[1], "the line", "exec")
        return
    if words[0] == "-m":
        if words[1] == "pytest" or not (ROOT / words[1].partition(".")[0]).exists():
            return
        path = ROOT / words[1].replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert path.is_file(), f"there is no {words[1]}"
        words = words[1:]
    else:
        path = next((p for p in (ROOT / words[0], page.parent / words[0]) if p.is_file()), None)
    assert path is not None, f"there is no {words[0]}"
    source = path.read_text("utf-8")
    for word in words[1:]:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            name = "config." if name.startswith("config.") else name
            # Of values of the config a program has the beginning of their names.
            defined = rf"(add_argument\(\s*\"--|DEFINE_\w+\(\s*\"|startswith\(\"--){name}\""
            assert re.search(defined, source), f"{of(path)} has no flag --{name}"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("page", PAGES, ids=of)
def test_every_command_takes_the_flags_it_is_shown_with(page, flags_of):
    for command in commands_of(page.read_text("utf-8")):
        program, *words = (word for word in words_of(command) if word != "ETC")
        if program == "python" and words[:2] == ["-m", "asc_jax"]:
            program, words = "asc-jax", words[2:]
        if program == "python" and words and words[0] in ("train.py", "eval.py"):
            program, words = "asc-jax", [words[0].removesuffix(".py"), *words[1:]]
        try:
            if program == "python":
                check_program(words, page)
            elif words and words[0].strip("-") not in ("VERB", "help", "version"):
                verb = words[0].replace("_", "-")
                assert verb in cli.VERBS, f"unknown verb {verb}"
                rest = check_verb(verb, words[1:], flags_of(verb), page)
                assert not rest or verb in WITH_WORDS, f"unexpected words {rest}"
        except (AssertionError, ValueError, IndexError) as error:
            raise AssertionError(f"{of(page)}: {command}: {error}") from error


def test_commands_are_found_where_they_stand():
    page = "a `asc-jax eval --workdir x` b\n\n    A=1 asc-jax train \\\n        --workdir y\n\n"
    page += "```bash\nffmpeg -i a - | asc-jax predict - --rate 8\npython train.py   # why\n```\n"
    assert sorted(commands_of(page)) == [
        "asc-jax eval --workdir x",
        "asc-jax predict - --rate 8",
        "asc-jax train --workdir y",
        "python train.py   # why",
    ]


@pytest.mark.parametrize("page", LINKED, ids=of)
def test_links_lead_to_files_and_headings_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{of(page)}: {target}"
        assert not anchor or anchor in anchors_of(file), f"{of(page)}: {target}"


def anchors_of(page):
    """Return what follows the # in links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_site_has_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assigned = ast.parse((ROOT / "docs/hooks.py").read_text("utf-8")).body
    (added,) = (
        ast.literal_eval(node.value)
        for node in assigned
        if isinstance(node, ast.Assign) and node.targets[0].id == "PAGES"
    )
    assert all((ROOT / file).is_file() for file in added.values())
    in_nav = {
        page
        for section in site["nav"]
        for pages in section.values()
        for page in ([pages] if isinstance(pages, str) else [p for e in pages for p in e.values()])
    }
    assert in_nav == {path.name for path in DOCS} | {*added}


def test_version_is_the_same_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]
    newest = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1]
    assert (str(cited), newest) == (asc_jax.__version__, asc_jax.__version__)


def test_readme_is_short():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    long = [s for s in sentences_of(text) if len(s.split()) > MAX_WORDS]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_sentences_are_short(page):
    prose = re.sub(r"^\|.*\n", "", page.read_text("utf-8"), flags=re.MULTILINE)
    long = [s for s in sentences_of(prose) if len(s.split()) > MAX_WORDS_OF_PAGES]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_words_are_those_of_the_glossary(page):
    check_words(prose_of(page.read_text("utf-8")))


@pytest.mark.parametrize("verb", cli.VERBS)
def test_words_of_a_help_text_are_those_of_the_glossary(verb, flags_of):
    own = flags_of(verb)
    module = sys.modules[f"asc_jax.cli.{verb.replace('-', '_')}"]
    check_words(cli.help_text(module.__doc__, list(own.values())))


def check_words(prose):
    """Raise an error for words that the glossary replaces by others."""
    prose = " ".join(prose.split())
    found = [
        f"{match[0]!r} in “{prose[max(0, match.start() - 40) : match.end() + 20]}”: {instead}"
        for pattern, instead in GLOSSARY.items()
        for match in re.finditer(rf"\b{pattern}\b", prose, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
