"""What is read back of a run's log."""

import pytest

from asc_jax import journal
from asc_jax.errors import UserError


def test_log_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory; put it"):
        journal.has(tmp_path, kind="test", step=3)
