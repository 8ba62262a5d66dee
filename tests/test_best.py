"""The best epoch so far survives whatever happens to its file."""

import json

import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.training.workdir import best, checkpoints


def keep(workdir, epoch, accuracy):
    state = {"kernel": np.full(3, epoch, np.float32)}
    extra = {"epoch": epoch, "over_budget": False}
    best.keep(workdir, state, extra, step=4 * epoch, kind="validation", accuracy=accuracy)


def saved_epoch(workdir):
    (folder,) = (workdir / "best").iterdir()
    return int(folder.name) // 4


@pytest.mark.parametrize("damage", ["delete", "cut", "older"])
def test_lost_file_is_written_again_and_a_worse_epoch_does_not_win(tmp_path, damage):
    keep(tmp_path, 1, 0.5)
    path = tmp_path / "best.json"
    intact = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(intact[:20])
    else:  # killed between the checkpoint and the file
        path.write_text(json.dumps({"epoch": 0, "macro_accuracy": 0.1}))
    keep(tmp_path, 2, 0.4)
    assert saved_epoch(tmp_path) == 1
    assert path.read_bytes() == intact
    keep(tmp_path, 3, 0.6)
    assert saved_epoch(tmp_path) == json.loads(path.read_text())["epoch"] == 3


def test_file_counts_for_a_checkpoint_that_does_not_say_it(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path, keep=1, name="best")
    manager.save(4, {"kernel": np.zeros(3, np.float32)}, {"epoch": 1})
    manager.close()
    (tmp_path / "best.json").write_text('{"epoch": 1, "macro_accuracy": 0.5}')
    keep(tmp_path, 2, 0.4)
    assert saved_epoch(tmp_path) == 1


def test_damaged_best_is_not_replaced_by_a_worse_one(tmp_path):
    keep(tmp_path, 1, 0.5)
    (tmp_path / "best/4/meta/metadata").write_text("{")
    with pytest.raises(UserError, match="best/4 is damaged: remove .*/best"):
        keep(tmp_path, 2, 0.4)
