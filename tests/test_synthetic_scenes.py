"""The synthetic data set: TAU's layout, the same bytes for a seed, neither silly nor easy."""

import csv
import filecmp
import re

import numpy as np
import pytest
import soundfile

from asc_jax.data.synthetic.devices import record
from asc_jax.data.synthetic.mixtures import MIX_DB, Segment, render
from asc_jax.data.synthetic.scenes import write_dataset
from asc_jax.data.synthetic.signals import N_SAMPLES
from asc_jax.data.synthetic.sources import SOURCES
from asc_jax.data.tau.folder import EVALUATION_FOLDER, read_recordings
from asc_jax.data.tau.taxonomy import CITIES, DEVICE_GROUPS, DEVICES, SCENES, TRAIN_PERCENTS
from asc_jax.errors import UserError

N_TRAIN, N_TEST = 4, 1  # segments per scene: 400 training and 900 test clips
SPLITS = [f"split{percent}" for percent in TRAIN_PERCENTS]
NAME = re.compile(
    rf"audio/({'|'.join(SCENES)})-({'|'.join(CITIES)})-(\d+)-(\d+)-(\d)-({'|'.join(DEVICES)}).wav"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("synthetic") / "tau"
    return write_dataset(
        out_dir, n_train_segments=N_TRAIN, n_test_segments=N_TEST, n_evaluation_segments=1
    )


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def names(folder, split):
    return [row["filename"] for row in read(folder / "split_setup" / f"{split}.csv")]


def fields(filename):
    return NAME.fullmatch(filename).groups()


def test_meta_repeats_what_the_names_say(folder):
    rows = read(folder / "meta.csv")
    assert list(rows[0]) == ["filename", "scene_label", "identifier", "source_label"]
    assert {row["filename"] for row in rows} == {
        f"audio/{path.name}" for path in (folder / "audio").iterdir()
    }
    for row in rows:
        scene, city, location, _, _, device = fields(row["filename"])
        said = (row["scene_label"], row["identifier"], row["source_label"])
        assert said == (scene, f"{city}-{location}", device)


def test_clips_are_one_second_of_24_bit_mono(folder):
    for path in sorted((folder / "audio").iterdir())[::7]:
        info = soundfile.info(path)
        found = (info.format, info.subtype, info.channels, info.samplerate, info.frames)
        assert found == ("WAV", "PCM_24", 1, 44_100, 44_100)


def test_lists_have_the_published_columns(folder):
    setup = folder / "evaluation_setup"
    assert list(read(setup / "fold1_test.csv")[0]) == ["filename"]
    for path in [setup / "fold1_train.csv", setup / "fold1_evaluate.csv"]:
        assert list(read(path)[0]) == ["filename", "scene_label"]
    assert read(setup / "fold1_train.csv") == read(folder / "split_setup/split100.csv")
    assert read(setup / "fold1_evaluate.csv") == read(folder / "split_setup/test.csv")
    assert [row["filename"] for row in read(setup / "fold1_test.csv")] == names(folder, "test")


def test_splits_are_nested_and_keep_segments_whole(folder):
    lists = [set(names(folder, split)) for split in SPLITS]
    assert all(small <= large for small, large in zip(lists, lists[1:], strict=False))
    assert len(lists[-1]) == 10 * N_TRAIN * len(SCENES)
    for filenames in [*lists, set(names(folder, "test"))]:
        recordings = {re.sub(r"-\d-", "-*-", name) for name in filenames}
        assert len(filenames) == 10 * len(recordings)
        assert {fields(name)[0] for name in filenames} == set(SCENES)


def test_train_and_test_share_no_location_and_no_segment(folder):
    train, test = ([fields(name) for name in names(folder, s)] for s in ("split100", "test"))
    for field in (2, 3):
        assert not {name[field] for name in train} & {name[field] for name in test}


def test_devices_are_distributed_as_in_the_challenge(folder):
    train = [fields(name)[-1] for name in names(folder, "split100")]
    assert set(train) == set(DEVICES) - set(DEVICE_GROUPS["unseen"])
    assert 0.6 <= train.count("a") / len(train) <= 0.75
    test = [fields(name)[-1] for name in names(folder, "test")]
    assert {test.count(device) for device in DEVICES} == {10 * N_TEST * len(SCENES)}


@pytest.mark.nightly
@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    again = write_dataset(tmp_path, n_train_segments=N_TRAIN, n_test_segments=N_TEST, n_workers=1)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 10 * len(SCENES) * (N_TRAIN + 9 * N_TEST) + 10
    _, mismatch, errors = filecmp.cmpfiles(folder, again, files, shallow=False)
    assert (mismatch, errors) == ([], [])


def test_another_seed_sounds_different():
    segment = Segment("park", "paris", 1000, 40_000)
    assert not np.allclose(render(segment, 0), render(segment, 1))
    np.testing.assert_array_equal(render(segment, 0), render(segment, 0))


def test_levels_are_audible_and_not_clipped(folder):
    paths = sorted((folder / "audio").iterdir())[::7]
    clips = [soundfile.read(path)[0] for path in paths]
    rms_dbfs = 20 * np.log10([np.sqrt(np.mean(clip**2)) for clip in clips])
    assert np.all((rms_dbfs > -60) & (rms_dbfs < -10))
    assert np.mean(np.abs(clips) > 0.95) < 1e-4


@pytest.mark.parametrize("name", SOURCES)
def test_sources_last_ten_seconds_at_unit_level(name):
    waveform = SOURCES[name](np.random.default_rng(0), np.random.default_rng(1))
    assert waveform.shape == (N_SAMPLES,)
    np.testing.assert_allclose(np.sqrt(np.mean(waveform.astype(float) ** 2)), 1, rtol=1e-3)


def test_every_scene_is_mixed_from_known_sources():
    assert list(MIX_DB) == list(SCENES)
    assert {name for mix in MIX_DB.values() for name in mix} <= set(SOURCES)


def test_device_a_is_nearly_transparent():
    spectrum = render(Segment("metro", "vienna", 1000, 40_000), 0)
    original = np.fft.irfft(spectrum, N_SAMPLES)
    stored = record(spectrum, "a", np.random.default_rng(0))
    assert np.corrcoef(original, stored)[0, 1] > 0.99


def test_band_energies_tell_scenes_apart_but_not_all_of_them(folder):
    train, test = names(folder, "split100"), names(folder, "test")
    known, asked = band_levels(folder, train), band_levels(folder, test)
    labels = np.array([SCENES.index(fields(name)[0]) for name in train])
    centroids = np.array([known[labels == i].mean(0) for i in range(len(SCENES))])
    distances = ((asked[:, None] - centroids[None]) ** 2).sum(-1)
    truth = [SCENES.index(fields(name)[0]) for name in test]
    assert 0.15 < np.mean(distances.argmin(1) == truth) < 0.95


def band_levels(folder, filenames):
    """Levels `[b, 24]` of third-octave-like bands, in decibels."""
    edges = np.geomspace(40, 20_000, 25).astype(int)  # one Fourier bin is 1 Hz
    levels = []
    for name in filenames:
        power = np.abs(np.fft.rfft(soundfile.read(folder / name)[0])) ** 2
        levels.append(10 * np.log10(np.add.reduceat(power, edges)[:-1] + 1e-9))
    return np.array(levels)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"n_train_segments": 0}, {"n_test_segments": 0}])
def test_impossible_sizes_are_refused(wrong, tmp_path):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        write_dataset(tmp_path, **wrong)


def test_evaluation_set_is_beside_the_folder_and_tells_nothing(folder):
    (clips,) = read_recordings(folder, ["evaluation"]).values()
    assert len(clips) == 10 * len(SCENES)
    assert {clip.path.parent for clip in clips} == {folder.parent / EVALUATION_FOLDER / "audio"}
    assert {clip.filename for clip in clips} == {f"audio/{i}.wav" for i in range(len(clips))}
    assert {clip.label for clip in clips} == {-1}
    sounds = {path.read_bytes() for path in (folder / "audio").iterdir()}
    assert not sounds & {clip.path.read_bytes() for clip in clips}
    first, second = (soundfile.read(clip.path)[0] for clip in clips[:2])
    assert not np.array_equal(first, second)


def test_missing_evaluation_set_says_where_it_is_expected(folder, tmp_path):
    alone = tmp_path / "tau"
    alone.symlink_to(folder)
    expected = f"'evaluation': unpack the evaluation set as {tmp_path / EVALUATION_FOLDER}, with"
    with pytest.raises(UserError, match=expected):
        read_recordings(alone, ["evaluation"])
