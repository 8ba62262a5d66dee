"""What is read back of a run's log."""

import pathlib

import pytest

from asc_jax.errors import UserError
from asc_jax.training.workdir import journal

ROOT = pathlib.Path(__file__).parents[1]


def test_log_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory; fix that"):
        journal.has(tmp_path, kind="test", step=3)
