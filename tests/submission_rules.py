"""The challenge's rules for a package, from its published layout alone: nothing of ours is used.

`validator_problems` has the rules of the official checking tool in our own words.
"""

import csv
import io
import math
import pathlib
import re
import zipfile

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


def check_made(out_dir, n_clips):
    """Both opinions on a package that our code has made: the folder, and the zip beside it."""
    check_package(out_dir, n_clips)
    assert validator_problems(pathlib.Path(out_dir, "task1.zip"), n_clips) == []


def validator_problems(package, n_clips):
    """Return what the official tool objects to in a zip, or stumbles over, in words of our own.

    Source: the rules of github.com/toni-heittola/dcase2024_task1_submission_validator (MIT), which
    are: of files with "task1" in their names, reports left out, the first folder is task1 and the
    last one the label; the tables of fields; `n_clips` different clips, named by numbers.
    """
    problems, entries = [], {}
    with zipfile.ZipFile(package) as archive:
        if archive.testzip():
            problems.append("a damaged file")
        for info in archive.infolist():
            name = info.filename
            if info.is_dir() or "task1" not in name or ".pdf" in name:
                continue
            *folders, file = name.split("/")
            if not folders or folders[0] != "task1":
                problems.append(f"{name} is not below task1")
                continue
            kind = re.search(r"\.output\.split_(5|10|25|50|100)\.csv|\.meta\.yaml", file)
            if kind:
                entries.setdefault(folders[-1], {})[file] = archive.read(name)
            else:
                problems.append(f"{name} has another name than files of a package")
    if not entries:
        problems.append("no entry")
    for label, files in entries.items():
        problems += [f"{name}: {p}" for name in files for p in _problems_of(name, files, n_clips)]
        problems += [
            f"{name} is not named {label}" for name in files if name.split(".")[0] != label
        ]
        if f"{label}.meta.yaml" not in files:
            problems.append(f"{label} has no meta file")
    return problems


def _problems_of(name, files, n_clips):
    try:
        if name.endswith(".csv"):
            return list(_problems_of_output(files[name].decode("utf-8"), n_clips))
        return list(_problems_of_meta(yaml.safe_load(files[name]), name.split(".")[0]))
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error, yaml.YAMLError) as error:
        return [f"the tool stumbles: {error!r}"]


def _problems_of_output(content, n_clips):
    header, *rows = csv.reader(io.StringIO(content), delimiter="\t")
    if set(header) != {"filename", "scene_label", *SCENES}:
        yield "another header"
    names = [row[header.index("filename")].split("/")[-1] for row in rows]
    if len(set(names)) != len(names) or len(names) != n_clips:
        yield f"{len(set(names))} different clips in {len(names)} rows, expected {n_clips}"
    for name, row in zip(names, rows, strict=True):
        stem, _, suffix = name.rpartition(".")
        if suffix != "wav" or not 0 <= int(stem) < 135_730:
            yield f"{name} is no clip of the evaluation set"
        if len(row) != 12:
            yield f"{len(row)} fields"
        if row[header.index("scene_label")] not in SCENES:
            yield "no scene"
        for scene in SCENES:
            float(row[header.index(scene)])


def _problems_of_meta(meta, label):
    def lacks(section, *names):
        missing = [name for name in names if name not in section]
        return [f"{', '.join(missing)} missing"] if missing else []

    submission, system = meta["submission"], meta["system"]
    yield from lacks(submission, "label", "name", "abbreviation", "authors")
    for author in submission["authors"]:
        yield from lacks(author, "lastname", "firstname", "email", "affiliation")
    if sum(bool(author.get("corresponding")) for author in submission["authors"]) != 1:
        yield "not one corresponding author"
    parts = submission["label"].split("_")
    if len(parts) != 4 or parts[2] != "task1" or not 1 <= int(parts[3]) <= 4:
        yield "the label is made wrongly"
    if submission["label"] != label:
        yield "another label than its folder's"
    if len(submission["abbreviation"]) > 10:
        yield "a long abbreviation"
    yield from lacks(system, "description", "complexity", "external_datasets", "source_code")
    yield from lacks(system["description"], *DESCRIPTION)
    yield from lacks(system["complexity"], "total_model_size", "total_parameters", "macs")
    int(system["complexity"]["total_parameters"])
    for dataset in system["external_datasets"] or []:
        yield from lacks(dataset, "name", "url", "total_audio_length")
    results = meta["results"]["development_dataset"]
    yield from lacks(results, *(f"split_{percent}" for percent in SPLITS))
    for split in results.values():
        rows = [split["overall"]]
        rows += [split["class_wise"][scene] for scene in SCENES]
        rows += [split["device_wise"][device] for device in DEVICES]
        for row in rows:
            float(row["accuracy"])
            float(row["logloss"])
