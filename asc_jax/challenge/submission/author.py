"""Read and check the author file of a submission, which holds what no run can tell."""

import datetime
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from asc_jax.errors import UserError, short
from asc_jax.machine import files

LABEL = re.compile(r"[A-Za-z][A-Za-z0-9-]*_[A-Za-z0-9-]+_task1_[1-4]")
LABEL_FORM = "<LastName>_<INST>_task1_<1..4>"
MAX_ABBREVIATION = 10  # characters
# Exceptions of reading YAML, whose types do not check every value.
YAML_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError),
    yaml.YAMLError,
)
DESCRIPTION = (
    *("input_sampling_rate", "acoustic_features", "data_augmentation"),
    *("machine_learning_method", "external_data_usage", "complexity_management", "pipeline"),
    *("framework", "split_adaptations", "system_adaptations"),
)
EXAMPLE = Path(__file__).with_name("example_author.yaml").read_text("utf-8")
# The keys of an author file: True where a value is needed.
_SUBMISSION = {"label": True, "name": True, "abbreviation": True, "authors": True}
_AUTHOR = {
    "lastname": True, "firstname": True, "email": True, "affiliation": True, "corresponding": False,
}  # fmt: skip
_AFFILIATION = {"abbreviation": True, "institute": True, "department": False, "location": True}
_DATASET = {"name": True, "url": True, "total_audio_length": True}
_FILE = {"submission": True, "external_datasets": False, "source_code": False, "description": False}
# The others hold text.
_NOT_TEXT = (
    *("submission", "authors", "affiliation", "corresponding"),
    *("external_datasets", "total_audio_length", "description"),
)
# What YAML 1.1 makes of a word without quotes.
_KINDS = {
    bool: "a truth value", int: "a number", float: "a number", datetime.date: "a date",
    datetime.datetime: "a date",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Reject what YAML allows and nobody means, such as a key that is given twice."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and isinstance(value, yaml.SequenceNode):
                # a few lines of them unfold into millions of keys
                raise yaml.MarkedYAMLError(
                    problem="<< of several mappings is not read", problem_mark=key.start_mark
                )
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {short(key.value)} is given twice",
                    problem_mark=key.start_mark,
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return node


def read_author(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check an author file with the layout of `EXAMPLE`; what is left out gets a value.

    Raises:
      UserError: the file cannot be read, or a field, which is named, has a value that a submission
        cannot hold.
    """
    try:
        content = read_yaml(path)
    except UserError as error:
        raise UserError(f"author file {path} {error}. --example_author_file prints one") from error
    problems = author_problems(content)
    if problems:
        raise UserError(f"author file {path}: {problems[0]}. --example_author_file prints one")
    content = {key: content.get(key) for key in _FILE}
    return content | {
        "external_datasets": content["external_datasets"] or [],
        "description": content["description"] or {},
    }


def read_yaml(path: str | os.PathLike) -> Any:
    """Return the content of a YAML file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
      UserError: why it cannot be read, in one line.
    """
    try:
        files.require_ordinary(path)
        with Path(path).open("rb") as file:
            return yaml.load(file, _Loader)
    except YAML_ERRORS as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if getattr(error, "encoding", None) == "utf-8":
            reason += "; save it as UTF-8"
        raise UserError(f"cannot be read: {reason}") from error


def author_problems(content: Any) -> list[str]:
    """Return the problems of the content of an author file, one line each."""
    problems = _fields(content, _FILE, "the file")
    if problems:
        return problems
    description = content.get("description")
    return [
        *submission_problems(content["submission"]),
        *dataset_problems(content.get("external_datasets")),
        *_fields(
            {} if description is None else description,
            dict.fromkeys(DESCRIPTION, False),
            "description",
        ),
    ]


def submission_problems(submission: Any) -> list[str]:
    """Return the problems of the section `submission` of an author file or a meta file."""
    problems = _fields(submission, _SUBMISSION, "submission")
    if problems:
        return problems
    label, abbreviation = submission["label"], submission["abbreviation"]
    if not LABEL.fullmatch(label):
        problems.append(f"submission.label is {short(label)}, expected {label_hint(label)}")
    if len(abbreviation) > MAX_ABBREVIATION:
        problems.append(
            f"submission.abbreviation {short(abbreviation)} has {len(abbreviation)} "
            f"characters, expected at most {MAX_ABBREVIATION}"
        )
    authors = submission["authors"]
    if not isinstance(authors, list):
        return [*problems, "submission.authors is not a list"]
    for number, author in enumerate(authors, 1):
        problems += _author_problems(author, f"submission.authors, number {number}")
    n = sum(isinstance(author, Mapping) and bool(author.get("corresponding")) for author in authors)
    if n != 1:
        problems.append(f"submission.authors has {n} corresponding authors, expected one")
    return problems


def label_hint(label: str) -> str:
    """Return what was expected in place of a label, and what is wrong with it."""
    n_parts = label.count("_") + 1
    expected = f"{LABEL_FORM}, for example Doe_UNI_task1_1"
    if not label.isascii():
        return f"{expected}: it names files, so write it in the letters a to z (Mueller for Müller)"
    if n_parts != 4:
        hint = "; write Van_Dyck as VanDyck or Van-Dyck" * (n_parts > 4)
        return f"{expected}: underscores part it into {n_parts}, expected four{hint}"
    return f"{expected}, in letters, digits and hyphens"


def dataset_problems(datasets: Any) -> list[str]:
    """Return the problems of the section `external_datasets`; None is an empty one."""
    if datasets is None:
        return []
    if not isinstance(datasets, list):
        return [
            f"external_datasets is {short(datasets)}, expected a list of mappings with "
            f"{', '.join(_DATASET)}"
        ]
    problems = []
    for number, dataset in enumerate(datasets, 1):
        where = f"external_datasets, number {number}"
        found = _fields(dataset, _DATASET, where)
        if not found and not _is_length(dataset["total_audio_length"]):
            found = [
                f"{where}: total_audio_length is {short(dataset['total_audio_length'])}, expected "
                "minutes, a number above 0"
            ]
        problems += found
    return problems


def _is_length(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _author_problems(author: Any, where: str) -> list[str]:
    problems = _fields(author, _AUTHOR, where)
    if problems:
        return problems
    if "@" not in author["email"]:
        problems.append(f"{where}: email is {short(author['email'])}, expected an address")
    if author.get("corresponding") not in (None, True, False):
        problems.append(
            f"{where}: corresponding is {short(author['corresponding'])}, expected true"
        )
    affiliations = author["affiliation"]
    for affiliation in affiliations if isinstance(affiliations, list) else [affiliations]:
        problems += _fields(affiliation, _AFFILIATION, f"{where}: affiliation")
    return problems


def text(value: Any) -> str:
    """Return text as it is, and any other value as `short` shows it."""
    return value if isinstance(value, str) else short(value)


def text_problems(content: Mapping, keys: Iterable[str], where: str) -> list[str]:
    """Return the problems of values that are there and no text that can be written."""
    problems = []
    for key in keys:
        value = content.get(key)
        if isinstance(value, str):
            if re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", value):
                problems.append(f"{where}: {key} is {short(value)}, expected printable text")
        elif value is not None:
            shown = str(value) if isinstance(value, datetime.date) else short(value)
            kind = _KINDS.get(type(value))
            read_as = f" ({kind})" if kind else ""
            quotes = "; put it in quotes" if kind else ""
            problems.append(f"{where}: {key} is {shown}{read_as}, expected text{quotes}")
    return problems


def _fields(content: Any, known: Mapping[str, bool], where: str) -> list[str]:
    """Return unknown keys, missing values and what is no text in a mapping, one line each."""
    if not isinstance(content, Mapping):
        return [f"{where} is {short(content)}, expected {', '.join(known)}"]
    unknown = [text(key) for key in content if key not in known]
    missing = [key for key, needed in known.items() if needed and _is_empty(content.get(key))]
    null = "missing or empty (the word null needs quotes)"
    return [
        *[f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}"] * bool(unknown),
        *[f"{where}: {', '.join(missing)} {null}"] * bool(missing),
        *text_problems(content, [key for key in known if key not in _NOT_TEXT], where),
    ]


def _is_empty(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value == []
