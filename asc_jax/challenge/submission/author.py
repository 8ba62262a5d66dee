"""Read and check the author file of a submission, which holds what no run can tell."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asc_jax.errors import UserError, short

LABEL = re.compile(r"[^\W\d_][\w-]*?_[\w-]+?_task1_[1-4]")
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
_FILE = {"submission": True, "external_datasets": False, "source_code": False, "description": False}


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
    """Return the content of a YAML file; a `UserError` says in one line why it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except YAML_ERRORS as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"cannot be read: {reason}") from error


def author_problems(content: Any) -> list[str]:
    """Return the problems of the content of an author file, one line each."""
    problems = _fields(content, _FILE, "the file")
    if problems:
        return problems
    problems = submission_problems(content["submission"])
    if not isinstance(content.get("external_datasets") or [], list):
        problems.append("external_datasets is not a list")
    description = content.get("description") or {}
    return problems + _fields(description, dict.fromkeys(DESCRIPTION, False), "description")


def submission_problems(submission: Any) -> list[str]:
    """Return the problems of the section `submission` of an author file or a meta file."""
    problems = _fields(submission, _SUBMISSION, "submission")
    if problems:
        return problems
    label, abbreviation = submission["label"], submission["abbreviation"]
    if not LABEL.fullmatch(text(label)):
        problems.append(
            f"submission.label is {short(label)}, expected <LastName>_<INST>_task1_<1..4>, for "
            "example Doe_UNI_task1_1"
        )
    if len(text(abbreviation)) > MAX_ABBREVIATION:
        problems.append(
            f"submission.abbreviation {short(abbreviation)} has {len(text(abbreviation))} "
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


def _author_problems(author: Any, where: str) -> list[str]:
    problems = _fields(author, _AUTHOR, where)
    if problems:
        return problems
    if "@" not in text(author["email"]):
        problems.append(f"{where}: email is {short(author['email'])}, expected an address")
    if author.get("corresponding") not in (None, True, False):
        problems.append(
            f"{where}: corresponding is {short(author['corresponding'])}, expected true"
        )
    return problems + _fields(author["affiliation"], _AFFILIATION, f"{where}: affiliation")


def text(value: Any) -> str:
    """Return text as it is, and any other value as `short` shows it."""
    return value if isinstance(value, str) else short(value)


def _fields(content: Any, known: Mapping[str, bool], where: str) -> list[str]:
    """Return the unknown keys and the missing values of a mapping, one line for each kind."""
    if not isinstance(content, Mapping):
        return [f"{where} is {short(content)}, expected {', '.join(known)}"]
    unknown = [text(key) for key in content if key not in known]
    missing = [key for key, needed in known.items() if needed and content.get(key) in (None, "")]
    return [
        *[f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}"] * bool(unknown),
        *[f"{where}: {', '.join(missing)} missing or empty"] * bool(missing),
    ]
