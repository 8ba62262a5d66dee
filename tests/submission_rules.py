"""The challenge's rules for a package, from its published layout alone: nothing of ours is used."""

import csv
import math
import pathlib
import re

import yaml

SCENES = (
    *("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall"),
    *("street_pedestrian", "street_traffic", "tram"),
)
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
SPLITS = (5, 10, 25, 50, 100)
DESCRIPTION = (
    *("input_sampling_rate", "acoustic_features", "data_augmentation"),
    *("machine_learning_method", "external_data_usage", "complexity_management", "pipeline"),
    *("framework", "split_adaptations", "system_adaptations"),
)


def check_package(out_dir, n_clips):
    """Raise an AssertionError at the first rule that the package breaks."""
    (folder,) = [path for path in pathlib.Path(out_dir, "task1").iterdir() if path.name[0] != "."]
    label = folder.name
    assert re.fullmatch(r"[^_\W]+_[A-Za-z0-9]+_task1_[1-4]", label)
    outputs = [f"{label}.output.split_{percent}.csv" for percent in SPLITS]
    files = {path.name for path in folder.iterdir() if path.suffix != ".pdf"}
    assert files == {*outputs, f"{label}.meta.yaml"}
    lists = [check_output(folder / name) for name in outputs]
    assert all(names == lists[0] for names in lists)
    assert len(lists[0]) == n_clips
    meta = yaml.safe_load((folder / f"{label}.meta.yaml").read_text("utf-8"))
    check_submission(meta["submission"], label)
    check_system(meta["system"])
    results = meta["results"]["development_dataset"]
    assert list(results) == [f"split_{percent}" for percent in SPLITS]
    for split in results.values():
        check_results(split)


def check_output(path):
    """The names of the clips of one file."""
    lines = path.read_text("utf-8").split("\n")
    assert lines.pop() == ""
    assert lines[0] == "\t".join(["filename", "scene_label", *SCENES])
    rows = list(csv.DictReader(lines, delimiter="\t"))
    for row in rows:
        assert "/" not in row["filename"]
        probs = [float(row[scene]) for scene in SCENES]
        assert min(probs) >= 0
        assert abs(sum(probs) - 1) < 1e-4
        assert float(row[row["scene_label"]]) == max(probs)
    names = [row["filename"] for row in rows]
    assert len(set(names)) == len(names)
    return names


def check_submission(submission, label):
    assert submission["label"] == label
    assert submission["name"]
    assert 1 <= len(submission["abbreviation"]) <= 10
    authors = submission["authors"]
    assert sum(bool(author.get("corresponding")) for author in authors) == 1
    assert all(author["lastname"] and author["firstname"] for author in authors)


def check_system(system):
    assert set(DESCRIPTION) == set(system["description"])
    cost = system["complexity"]
    assert 0 < cost["total_model_size"] <= 128_000
    assert 0 < cost["macs"] <= 30_000_000
    assert cost["total_parameters"] > 0
    assert {"external_datasets", "source_code"} <= {*system}


def check_results(split):
    rows = [split["overall"]]
    rows += [split["class_wise"][scene] for scene in SCENES]
    rows += [split["device_wise"][device] for device in DEVICES]
    for row in rows:
        assert 0 <= row["accuracy"] <= 100
        assert 0 <= row["logloss"] < math.inf
    mean = sum(split["class_wise"][scene]["accuracy"] for scene in SCENES) / len(SCENES)
    assert abs(mean - split["overall"]["accuracy"]) < 0.01
