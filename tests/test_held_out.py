"""Training locations held out: whole, a share of every scene's, by the seed alone."""

import types

import numpy as np
import pytest
from small import small_clips, small_config
from tiny import tiny_config

from asc_jax import experiment
from asc_jax.cli import train
from asc_jax.data import held_out
from asc_jax.data.clips import Clips, epoch_order, from_arrays
from asc_jax.data.tau.taxonomy import SCENES
from asc_jax.errors import UserError
from asc_jax.training.workdir import run_config


def clips_of(n_locations, per_location=3, n_scenes=10):
    """Clips in the data set's manner: `n_locations` a scene, in turns."""
    rows = [
        (s, k) for _ in range(per_location) for k in range(n_locations) for s in range(n_scenes)
    ]
    names = [f"audio/{SCENES[s]}-lyon-{100 * s + k}-{i}-0-a.wav" for i, (s, k) in enumerate(rows)]
    label = np.array([s for s, _ in rows])
    audio = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
    return from_arrays(audio, label, np.zeros(len(rows)), names)


def names_of(clips):
    return [name for b in clips.in_order(7) for name in b["filename"][b["mask"]].tolist()]


def locations_of(clips):
    return {"-".join(name.split("-")[1:3]) for name in names_of(clips)}


@pytest.mark.parametrize(("share", "n"), [(0.01, 1), (0.2, 1), (0.3, 2), (0.5, 3), (0.99, 4)])
def test_every_scene_gives_its_share_and_keeps_some(share, n):
    clips = clips_of(5)
    train, validation = held_out.split(clips, share, seed=0)
    assert not locations_of(train) & locations_of(validation)
    assert sorted(names_of(train) + names_of(validation)) == sorted(names_of(clips))
    for scene in SCENES:
        assert len({x for x in locations_of(validation) if scene == SCENES[int(x[5:]) // 100]}) == n


def test_clips_keep_their_order_and_their_sound():
    clips = clips_of(4)
    both = held_out.split(clips, 0.25, seed=3)
    whole = {
        row: a
        for b in clips.in_order(200)
        for row, a in zip(b["filename"], b["audio"], strict=True)
    }
    order = names_of(clips)
    for part in both:
        names = names_of(part)
        assert names == sorted(names, key=order.index)
        for batch in part.batches(epoch_order(len(part), 0, 0), 4):
            for name, audio, valid in zip(
                *(batch[k] for k in ("filename", "audio", "mask")), strict=True
            ):
                assert not valid or (audio == whole[name]).all()


def test_the_seed_alone_chooses():
    first, again, other = (
        locations_of(held_out.split(clips_of(6), 0.3, seed)[1]) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_choice_stays_what_it_was():
    """Pinned so that a run can be evaluated under later versions of numpy."""
    names = [f"lyon-{k}" for k in range(8)]
    assert held_out.choose(names, [0] * 8, fraction=0.3, seed=0) == ["lyon-4", "lyon-6"]


def test_more_clips_of_the_same_locations_change_nothing():
    few, many = (held_out.split(clips_of(5, n), 0.2, seed=0)[1] for n in (1, 4))
    assert locations_of(few) == locations_of(many)


def test_no_share_reads_nothing_and_changes_nothing():
    clips = Clips(3, read=None)
    assert held_out.split(clips, 0.0, seed=0) == (clips, None)


def test_a_location_with_several_scenes_is_not_cut():
    locations = ["a", "a", "b", "b", "c", "c", "d", "d"]
    labels = [0, 1, 0, 1, 0, 0, 0, 0]
    for seed in range(10):
        chosen = held_out.choose(locations, labels, fraction=0.5, seed=seed)
        assert len(chosen) == 2
        assert len({"a", "b"} & set(chosen)) == 1


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(UserError, match="no class has a training location to spare"):
        held_out.split(clips_of(1), 0.5, seed=0)
    with pytest.raises(UserError, match="'0' is not named <scene>-<city>"):
        held_out.split(small_clips(4), 0.5, seed=0)
    with pytest.raises(UserError, match=r"validation_locations is 1.0, expected in \[0, 1\)"):
        experiment.make(small_config(data__validation_locations=1.0))


def test_fraction_that_leaves_nothing_to_train_on_leaves_no_run(tmp_path, monkeypatch):
    """So that the same workdir takes the corrected command."""

    class Flags(dict):
        config = tiny_config(data__validation_locations=0.5)
        workdir = str(tmp_path / "run")

    given = Flags(config=types.SimpleNamespace(config_filename="tiny.py"))
    monkeypatch.setattr(train, "flags", types.SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(train, "start_replicas", lambda: None)
    monkeypatch.setattr(train, "open_for", lambda config, split: clips_of(1))
    with pytest.raises(UserError, match="no class has a training location to spare"):
        train.main(["train"])
    run_config.save(tmp_path / "run", "tiny.py", tiny_config())
