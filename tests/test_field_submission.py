"""Submissions as people make them: typed names, editors, file managers, zip programs."""

import json
import os
import re
import shutil
import struct
import unicodedata
import zipfile

import pytest
import yaml
from commands import call
from submission_rules import DESCRIPTION, DEVICES, SCENES, SPLITS, check_made, validator_problems

from asc_jax.challenge.submission import check as submission_check
from asc_jax.challenge.submission.author import EXAMPLE, read_author
from asc_jax.challenge.submission.check import check
from asc_jax.challenge.submission.package import write_zip
from asc_jax.errors import UserError

LABEL = "Doe_UNI_task1_1"
N_CLIPS = 12
OUTPUT, META = f"task1/{LABEL}/{LABEL}.output.split_25.csv", f"task1/{LABEL}/{LABEL}.meta.yaml"
TWO_AFFILIATIONS = """affiliation:
        - {abbreviation: UNI, institute: Example University, location: Exampletown}
        - {abbreviation: LAB, institute: Example Laboratory, location: Exampletown}
"""
DATASET = "external_datasets: [{name: A, url: https://a.example, total_audio_length: 300}]"
ONE_AFFILIATION = EXAMPLE[EXAMPLE.index("affiliation:") : EXAMPLE.index("    - lastname: Roe")]


def replaced(old, new):
    assert old in EXAMPLE
    return EXAMPLE.replace(old, new, 1)


def read(folder, text):
    """The content of an author file, as its reader gives it."""
    path = folder / "author.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_author(path)


def refusal(folder, text):
    """Why an author file is refused, in one line."""
    with pytest.raises(UserError) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make_package(out, text=EXAMPLE, label=LABEL):
    """A package without runs: the meta file as ours, of figures that are all alike."""
    folder = out / "task1" / label
    folder.mkdir(parents=True)
    lines = ["\t".join(("filename", "scene_label", *SCENES))]
    for i in range(N_CLIPS):
        probs = [str(float(s == i % 10)) for s in range(10)]
        lines.append("\t".join((f"{i}.wav", SCENES[i % 10], *probs)))
    for percent in SPLITS:
        (folder / f"{label}.output.split_{percent}.csv").write_text("\n".join(lines) + "\n")
    author = read(out, text.replace(LABEL, label))
    (out / "author.yaml").unlink()
    figures = {"accuracy": 50.0, "logloss": 1.0}
    split = {
        "overall": figures,
        "class_wise": dict.fromkeys(SCENES, figures),
        "device_wise": dict.fromkeys(DEVICES, figures),
    }
    meta = {
        "submission": author["submission"],
        "system": {
            "description": dict.fromkeys(DESCRIPTION, "x") | author["description"],
            "complexity": {"total_model_size": 1, "total_parameters": 1, "macs": 1},
            "external_datasets": author["external_datasets"] or None,
            "source_code": author["source_code"],
        },
        "results": {"development_dataset": {f"split_{percent}": split for percent in SPLITS}},
    }
    (folder / f"{label}.meta.yaml").write_text(yaml.safe_dump(meta, sort_keys=False), "utf-8")
    write_zip(out)
    return out


@pytest.fixture
def out(tmp_path):
    out = tmp_path / "submission"
    return make_package(out)


def edit_meta(out, change):
    path = out / META
    meta = yaml.safe_load(path.read_text())
    change(meta)
    path.write_text(yaml.safe_dump(meta, sort_keys=False))
    write_zip(out)


def zip_of(path, members):
    """A zip of (name, content or a file's path), in that order."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            data = content.read_bytes() if hasattr(content, "read_bytes") else content
            archive.writestr(name, data)
    return path


def members_of(out):
    return [*submission_check.members(out).items()]


# The label


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("Van_Dyck_UNI_task1_1", "part it into 5, expected four; write Van_Dyck as VanDyck or Van"),
        ("Gao_Lee_UniSA_task1_1", "part it into 5, expected four"),
        ("Doe_UNI_LAB_task1_2", "part it into 5, expected four"),
        ("Doe_task1_1_task1_1", "part it into 5, expected four"),
        ("Doe_task1_1", "part it into 3, expected four"),
        ("Doe_UNI_task1_5", "in letters, digits and hyphens"),
        ("Doe_UNI_task2_1", "expected <LastName>_<INST>_task1_<1..4>"),
        ("O'Brien_UNI_task1_1", "in letters, digits and hyphens"),
        (unicodedata.normalize("NFD", "Müller_JKU_task1_1"), "letters a to z (Mueller for Müller)"),
        (unicodedata.normalize("NFC", "Müller_JKU_task1_1"), "letters a to z (Mueller for Müller)"),
        ("शर्मा_IITB_task1_1", "it names files, so write it in the letters a to z"),
    ],
)
def test_b05_label_has_four_parts_of_ascii(tmp_path, label, reason):
    message = refusal(tmp_path, EXAMPLE.replace(LABEL, label))
    assert reason in message
    assert "submission.label is " in message


@pytest.mark.parametrize("label", ["Van-Dyck_UNI_task1_1", "Gao_UniSA-LAB_task1_4", "B2_x_task1_2"])
def test_b05_label_that_ours_takes_the_official_tool_takes(tmp_path, label):
    out = make_package(tmp_path / "out", label=label)
    assert check(out, practice=True) == []
    assert validator_problems(out / "task1.zip", N_CLIPS) == []


def test_b05_renamed_folder_is_told_why(out):
    label = "Van_Dyck_UNI_task1_1"
    (out / "task1" / LABEL).rename(out / "task1" / label)
    first, *_ = check(out, practice=True)
    assert first.startswith(f"task1/{label}: expected <LastName>_<INST>_task1_<1..4>")


def test_names_of_authors_are_kept_in_any_script(tmp_path):
    names = ["Müller", unicodedata.normalize("NFD", "Žižek"), "शर्मा", "王", "می\u200cخواهم", "O'No"]
    text = EXAMPLE
    for name in names:
        text = text.replace("lastname: Doe", f"lastname: {name}")
        out = make_package(tmp_path / str(names.index(name)), text)
        meta = yaml.safe_load((out / META).read_text("utf-8"))
        assert meta["submission"]["authors"][0]["lastname"] == name
        check_made(out, N_CLIPS)
        text = EXAMPLE


def test_more_than_four_entries_are_too_many(out):
    for n in (2, 3, 4):
        make_package(out, label=f"Doe_UNI_task1_{n}")
    assert check(out, practice=True) == []
    assert validator_problems(out / "task1.zip", N_CLIPS) == []
    make_package(out, label="Roe_UNI_task1_1")
    assert check(out, practice=True) == ["task1 holds 5 entries, expected at most 4"]


# Fields of the author file and of the meta file


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ("[{name: AudioSet}]", "number 1: url, total_audio_length missing or empty"),
        ("[AudioSet]", "number 1 is 'AudioSet', expected name, url, total_audio_length"),
        ("[1]", "number 1 is 1, expected name, url, total_audio_length"),
        ("No", "external_datasets is False, expected a list of mappings with name, url, total"),
        ("{name: AudioSet}", "expected a list of mappings"),
        ("[{name: A, url: u, total_audio_length: 5 hours}]", "is '5 hours', expected minutes"),
        ("[{name: A, url: u, total_audio_length: 1e3}]", "is '1e3', expected minutes, a number"),
        ("[{name: A, url: u, total_audio_length: yes}]", "is True, expected minutes"),
        ("[{name: A, url: u, total_audio_length: 0}]", "is 0, expected minutes, a number above 0"),
        ("[{name: A, url: u, total_audio_length: .inf}]", "is inf, expected minutes"),
        ("[{name: 2017, url: u, total_audio_length: 1}]", "name is 2017 (a number), expected text"),
        ("[{name: A, url: u, total_audio_length: 1, n: 2}]", "number 1: unknown n; known: name"),
    ],
)
def test_b06_external_data_set_has_name_url_and_length(tmp_path, out, datasets, reason):
    """In the author file, and in a meta file that somebody has edited."""
    text = replaced("external_datasets: []", f"external_datasets: {datasets}")
    assert reason in refusal(tmp_path, text)
    edit_meta(out, lambda m: m["system"].update(external_datasets=yaml.safe_load(datasets)))
    (problem,) = check(out, practice=True)
    assert reason in problem
    assert "system.external_datasets" in problem


def test_external_data_sets_that_are_complete_pass_both(tmp_path):
    out = make_package(tmp_path / "out", replaced("external_datasets: []", DATASET))
    assert check(out, practice=True) == []
    check_made(out, N_CLIPS)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("lastname: Roe", "lastname: No", "authors, number 2: lastname is False (a truth value), "),
        ("firstname: Jane", "firstname: On", "number 1: firstname is True (a truth value), exp"),
        ("abbreviation: UNI", "abbreviation: NO", "affiliation: abbreviation is False (a truth "),
        ("abbreviation: Small", "abbreviation: 2024", "submission: abbreviation is 2024 (a number"),
        ("name: A small network for small data", "name: 2024-06-15", "name is 2024-06-15 (a date)"),
        ("name: A small network for small data", "name: 2024-06-15 12:00:00", "(a date), expected"),
        ("location: Exampletown, Exampleland", "location: 1.5e+3", "location is 1500.0 (a number)"),
        ("label: Doe_UNI_task1_1", "label: 12:30:45", "label is 45045 (a number), expected text"),
        ("source_code: null", "source_code: off", "the file: source_code is False (a truth value)"),
        ("description: {}", "description: {pipeline: Yes}", "description: pipeline is True (a tr"),
    ],
)
def test_b07_word_that_yaml_reads_as_something_else_is_named(tmp_path, old, new, reason):
    message = refusal(tmp_path, replaced(old, new))
    assert reason in message
    assert "expected text; put it in quotes" in message
    key, _, value = new.partition(": ")
    quoted = f'{key}: "{value}"' if "{" not in value else 'description: {pipeline: "Yes"}'
    content = read(tmp_path, replaced(old, quoted)) if "12:30" not in value else None
    assert content is None or "False" not in json.dumps(content)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("lastname: Roe", "lastname: [Roe]", "number 2: lastname is ['Roe'], expected text. "),
        ("department: Department of Acoustics", "department: {a: 1}", "is {'a': 1}, expected text"),
        ("lastname: Roe", "lastname: Null", "lastname missing or empty (the word null needs quote"),
        ("lastname: Roe", "lastname: '  '", "lastname missing or empty"),
        ("lastname: Roe", r'lastname: "Roe\e[31m"', "lastname is 'Roe\\x1b[31m', expected printa"),
        ("lastname: Roe", r'lastname: "\ud83d"', "lastname is '\\ud83d', expected printable text"),
        ("corresponding: true", "corresponding: ja", "corresponding is 'ja', expected true"),
        (ONE_AFFILIATION, "affiliation: []\n", "number 1: affiliation missing or empty"),
        (ONE_AFFILIATION, "affiliation: [UNI]\n", "affiliation is 'UNI', expected abbreviation"),
        ("description: {}", "description: No", "description is False, expected input_sampling_r"),
    ],
)
def test_other_values_that_are_no_text_are_named(tmp_path, old, new, reason):
    assert reason in refusal(tmp_path, replaced(old, new))


def test_b07_meta_file_that_somebody_edited_is_held_to_the_same(out):
    def spoil(meta):
        meta["submission"]["authors"][1]["lastname"] = False
        meta["system"]["description"]["framework"] = True
        meta["system"]["source_code"] = 1

    edit_meta(out, spoil)
    assert [problem.partition(": ")[2] for problem in check(out, practice=True)] == [
        "submission.authors, number 2: lastname is False (a truth value), expected text; put it in "
        "quotes",
        "system.description: framework is True (a truth value), expected text; put it in quotes",
        "system: source_code is 1 (a number), expected text; put it in quotes",
    ]


def test_b07_two_affiliations_of_one_author(tmp_path):
    text = replaced(ONE_AFFILIATION, TWO_AFFILIATIONS)
    out = make_package(tmp_path / "out", text)
    assert check(out, practice=True) == []
    check_made(out, N_CLIPS)
    wrong = text.replace("institute: Example Laboratory, ", "")
    assert "number 1: affiliation: institute missing or empty" in refusal(tmp_path, wrong)


# How the author file was written


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),  # PowerShell's ">" writes this
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
    ],
)
def test_author_file_of_any_editor_is_read(tmp_path, encode):
    text = replaced("lastname: Doe", "lastname: Müller")
    assert read(tmp_path, encode(text)) == read(tmp_path, text)


def test_affiliation_may_be_given_once_and_referred_to(tmp_path):
    first = ONE_AFFILIATION.replace(
        "affiliation:          # or a list of several", "affiliation: &u"
    )
    text = replaced(ONE_AFFILIATION, first)
    head, _, tail = text.rpartition("affiliation:\n")
    shared = head + "affiliation: *u\n" + tail[tail.index("external_datasets") :]
    assert read(tmp_path, shared) == read(tmp_path, EXAMPLE)
    merged = head + "affiliation:\n        <<: *u\n" + tail[tail.index("external_datasets") :]
    assert read(tmp_path, merged) == read(tmp_path, EXAMPLE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (replaced("lastname: Doe", "lastname: Müller").encode("latin-1"), "; save it as UTF-8"),
        (
            EXAMPLE.replace("      firstname", "\tfirstname"),
            "found character '\\t' that cannot sta",
        ),
        (replaced("lastname: Doe", "lastname: Doe\n      lastname: Roe"), "'lastname' is given tw"),
        (replaced("source_code:", "label: x\nlabel:"), "the key 'label' is given twice in "),
        (replaced("lastname: Doe", "lastname: Doe: Jr"), "mapping values are not allowed here"),
        ("", "the file is None, expected submission, external_datasets"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "<< of several mappings is not read in "),
        (EXAMPLE + "---\n" + EXAMPLE, "expected a single document"),
        ("submission: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_author_file_that_cannot_be_meant_is_refused(tmp_path, text, reason):
    message = refusal(tmp_path, text)
    assert reason in message
    assert message.startswith(f"author file {tmp_path / 'author.yaml'}")


@pytest.mark.parametrize(
    "line", ["{n}: &{n} {{<<: *{last}, x{n}: 1}}", "{n}: &{n} [*{last}, *{last}]"]
)
def test_yaml_that_unfolds_is_refused_quickly(tmp_path, line):
    lines = ["n0: &n0 {a: 1}"]
    lines += [line.format(n=f"n{n}", last=f"n{n - 1}") for n in range(1, 60)]
    assert "unknown n0, n1, " in refusal(tmp_path, "\n".join(lines))


# Files and zips


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("task1/.DS_Store", "macOS Finder"),
        ("task1/__MACOSX/x", "macOS Finder"),
        (f"task1/{LABEL}/.DS_Store", "macOS Finder"),
        (f"task1/{LABEL}/._{LABEL}.technical_report.pdf", "macOS Finder"),
        (f"task1/{LABEL}/Thumbs.db", "Windows Explorer"),
        (f"task1/{LABEL}/desktop.ini", "Windows Explorer"),
        (f"task1/{LABEL}/{LABEL}.meta.yaml~", None),
        (f"task1/{LABEL}/old/x.csv", None),
        ("task1/notes.txt", None),
    ],
)
def test_b06_file_that_does_not_belong_there_is_named_and_not_packed(out, name, whose):
    before = (out / "task1.zip").read_bytes()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("x")
    (problem,) = check(out, practice=True)
    expected = "not part of a submission"
    assert problem.endswith(f"{expected}; {whose} left it: remove it" if whose else expected)
    write_zip(out)
    assert (out / "task1.zip").read_bytes() == before


def test_b06_zip_is_what_is_handed_in_and_always_the_same(out):
    with zipfile.ZipFile(out / "task1.zip") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert len(names) == 6
    assert all(name.startswith(f"task1/{LABEL}/{LABEL}.") for name in names)
    before = (out / "task1.zip").read_bytes()
    for path in (out / "task1" / LABEL).iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    write_zip(out)
    assert (out / "task1.zip").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["task1", "task1.zip"]
    assert [path.name for path in (out / "task1").iterdir()] == [LABEL]


def test_zip_that_cannot_be_written_leaves_the_old_one(out, monkeypatch):
    before = (out / "task1.zip").read_bytes()

    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"cannot write .*task1\.zip: No space left on device"):
        write_zip(out)
    assert (out / "task1.zip").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["task1", "task1.zip"]


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        (
            lambda name: f"submission/{name}",
            "task1/ lies too deep, expected task1/<label>/… at the",
        ),
        (
            lambda name: name.removeprefix("task1/"),
            f"begins with {LABEL}/, expected task1/<label>/",
        ),
        (lambda name: name.split("/")[-1], "lies in no folder, expected task1"),
        (lambda name: name.replace("/", "\\"), "its folders end in \\, expected /"),
        (lambda name: f"/{name}", "task1/ lies too deep, expected task1"),
        (lambda name: f"../{name}", "task1/ lies too deep, expected task1"),
        (lambda name: name.replace(f"/{LABEL}/", "/../"), "expected task1/<label>/<file>"),
        (lambda name: name.replace(f"/{LABEL}/", "/"), "expected task1/<label>/<file>"),
        (lambda name: name.replace("task1/", "Task1/"), "begins with Task1/, expected task1/<lab"),
    ],
)
def test_b06_zip_with_another_layout_is_told_apart(tmp_path, out, rename, reason):
    path = zip_of(tmp_path / "x.zip", [(rename(name), data) for name, data in members_of(out)])
    (problem,) = check(path, practice=True)
    assert reason in problem
    assert problem.endswith("asc-jax submission --zip DIR writes one as it must be")
    assert validator_problems(path, N_CLIPS)


def test_b06_zip_made_by_macos_finder(tmp_path, out):
    """Folders are entries of their own, and beside each file lies one with its attributes."""
    members = [("task1/", b""), (f"task1/{LABEL}/", b""), ("task1/.DS_Store", b"Bud1")]
    for name, data in members_of(out):
        members += [
            (name, data),
            (f"__MACOSX/task1/{LABEL}/._{name.split('/')[-1]}", b"\0\5\x16\7"),
        ]
    path = zip_of(tmp_path / "Archive.zip", members)
    (problem,) = check(path, practice=True)
    assert problem == (
        "Archive.zip: task1/.DS_Store (and 6 more): macOS Finder packed it; asc-jax submission "
        "--zip DIR writes one as it must be"
    )
    assert validator_problems(path, N_CLIPS)


def test_b06_zip_made_by_windows_explorer(tmp_path, out):
    """No entries for folders, and hidden files come along."""
    path = zip_of(tmp_path / "task1.zip", members_of(out))
    assert check(path, practice=True) == []
    assert validator_problems(path, N_CLIPS) == []
    path = zip_of(path, [*members_of(out), ("task1/Thumbs.db", b"x"), ("desktop.ini", b"x")])
    (problem,) = check(path, practice=True)
    assert "task1/Thumbs.db (and 1 more): Windows Explorer packed it" in problem


def test_zip_is_checked_as_its_folder_is(tmp_path, out):
    assert check(out / "task1.zip", practice=True) == []
    assert len(check(out / "task1.zip")) == 5, "12 clips are not the challenge's"
    members = [m for m in members_of(out) if m[0] != OUTPUT]
    path = zip_of(tmp_path / "x.zip", [*members, (OUTPUT, b"x"), ("task1/a/b", b"x")])
    problems = check(path, practice=True)
    assert f"{LABEL}.output.split_25.csv: columns ['x'], expected" in problems[0]
    assert problems[1].startswith("task1/a: expected <LastName>_<INST>_task1_<1..4>")
    assert not [problem for problem in problems if str(tmp_path) in problem]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: b"", "cannot be unpacked as a zip: File is not a zip file"),
        (lambda data: b"Rar!\x1a\7\1\0" + data[:50], "cannot be unpacked as a zip: File is not a "),
        (
            lambda data: data[: len(data) // 2],
            "cannot be unpacked as a zip: File is not a zip file",
        ),
        (lambda data: data[:90] + b"\xff" * 9 + data[99:], "cannot be unpacked as a zip: "),
        (lambda data: struct.pack("<I", 0x06054B50) + bytes(18), "x.zip: holds no files"),
    ],
)
def test_damaged_zip_is_told(tmp_path, out, spoil, reason):
    path = tmp_path / "x.zip"
    path.write_bytes(spoil((out / "task1.zip").read_bytes()))
    (problem,) = check(path, practice=True)
    assert reason in problem


def test_encrypted_linked_doubled_and_huge_members_are_not_unpacked(tmp_path, out, monkeypatch):
    data = bytearray((out / "task1.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    assert "encrypted, expected no password" in check(path, practice=True)[0]

    link = zipfile.ZipInfo(META)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    zip_of(path, [(link, b"/etc/passwd"), *members_of(out)[1:]])
    assert "a link, expected a file" in check(path, practice=True)[0]

    with pytest.warns(UserWarning, match="Duplicate name"):
        zip_of(path, [*members_of(out), members_of(out)[0]])
    (problem,) = check(path, practice=True)
    assert "meta.yaml: packed twice" in problem

    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, member in members_of(out):
            archive.write(member, name)
    assert "(and 5 more): compressed in a way that few programs" in check(path, practice=True)[0]

    monkeypatch.setattr(submission_check, "MAX_UNPACKED", 1000)
    (problem,) = check(out / "task1.zip", practice=True)
    assert "task1.zip: unpacks to more than" in problem


def test_folder_and_zip_must_hold_the_same(out):
    report = out / "task1" / LABEL / f"{LABEL}.technical_report.pdf"
    report.write_bytes(b"%PDF")
    (problem,) = check(out, practice=True)
    assert problem == (
        f"task1.zip: task1/{LABEL}/{report.name} is in the folder alone; write it again: asc-jax "
        "submission --zip DIR"
    )
    write_zip(out)
    check_made(out, N_CLIPS)
    assert check(out, practice=True) == []
    report.write_bytes(b"%PDG")
    assert f"{report.name} is another than in the folder; write" in check(out, practice=True)[0]
    report.unlink()
    assert "is not in the folder; write it again" in check(out, practice=True)[0]
    (out / "task1.zip").write_bytes(b"PK")
    assert "task1.zip: cannot be read as a zip: " in check(out, practice=True)[0]


def test_report_is_added_zipped_and_checked_by_commands(tmp_path, out):
    (out / "task1.zip").unlink()
    done = call("submission", "--check=submission", "--practice", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "submission: no problem found, for practice only",
        "submission/task1.zip is not there yet: asc-jax submission --zip submission",
    ]
    (out / "task1" / LABEL / "report.pdf").write_bytes(b"%PDF")
    done = call("submission", "--zip=submission", "--practice", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("written to submission/task1.zip\n")
    with zipfile.ZipFile(out / "task1.zip") as archive:
        assert f"task1/{LABEL}/report.pdf" in archive.namelist()
    done = call("submission", "--check=submission/task1.zip", "--practice", cwd=tmp_path)
    assert done.stdout == "submission/task1.zip: no problem found, for practice only\n"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--zip=submission"], "submission cannot be submitted: 5 problems, see above"),
        (["--zip=submission", "run"], "--zip looks at a finished package alone, not at run"),
        (["--zip=a", "--check=a"], "--check or --zip: --zip checks as well"),
        (["--zip=nowhere"], "nowhere/task1: no entry there, expected task1/<label>/ in nowhere"),
        (["--check=submission/task1"], "in submission/task1; did you mean submission?"),
        (["--check=submission/task1/" + LABEL], "; did you mean submission?"),
    ],
)
def test_wrong_words_of_check_and_zip_end_with_2_and_change_nothing(tmp_path, out, args, reason):
    before = (out / "task1.zip").read_bytes()
    done = call("submission", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr.splitlines()[-1]
    assert (out / "task1.zip").read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


# What editors do to an output file


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("\t", ","), "columns ['filename,scene_label,airport"),
        (lambda text: text.replace("\t", ";"), "columns ['filename;scene_label;airport"),
        (lambda text: "\ufeff" + text, "begins with a byte order mark; save it as UTF-8 without"),
        (lambda text: text.encode("utf-16"), "is not text in UTF-8: "),
        (lambda text: text.replace("\n", "\r"), "has lines that end in \\r alone, expected \\n"),
        (lambda text: text + "\n", "row 14: 0 cells, expected 12"),
        (lambda text: text.replace("0.wav\tairport\t1.0", "0.wav\tairport\t1,0"),
         "row 2: probability '1,0' is no number, expected one such as 0.25"),
        (lambda text: text.replace("0.wav\tairport\t1.0", "0.wav\tairport\t"),
         "row 2: probability '' is no number"),
        (lambda text: text.replace("0.wav\tairport\t1.0", "0.wav\tairport\t0.9999"),
         "row 2: probabilities sum to 0.9999, expected 1"),
        (lambda text: text.replace("0.wav\tairport\t1.0", "0.wav\tairport\tinf"),
         "row 2: a probability is not in [0, 1]"),
        (lambda text: text.replace("\tairport\t1.0", "\tAirport\t1.0"),
         "row 2: scene_label 'Airport', expected one of airport"),
    ],
)  # fmt: skip
def test_output_file_from_an_editor_is_refused_by_row(out, change, reason):
    path = out / OUTPUT
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    (problem,) = check(out, practice=True)
    assert reason in problem
    assert problem.startswith(path.name)


def test_output_files_with_windows_line_ends_and_six_digits_pass(out):
    for path in (out / "task1" / LABEL).glob("*.csv"):
        text = path.read_text().replace("1.0", "0.999991").replace("\n", "\r\n")
        path.write_bytes(text.encode())
    write_zip(out)
    assert check(out, practice=True) == []
    assert validator_problems(out / "task1.zip", N_CLIPS) == []


def test_clips_are_those_of_the_evaluation_set(out, monkeypatch):
    monkeypatch.setattr(submission_check, "N_EVALUATION_CLIPS", N_CLIPS)
    assert check(out) == []
    for path in (out / "task1" / LABEL).glob("*.csv"):
        path.write_text(path.read_text().replace("\n3.wav", "\n135730.wav"))
    problems = check(out)
    assert len(problems) == 5
    assert "row 5: clip '135730.wav', expected 0.wav to " in problems[0]
    write_zip(out)
    assert check(out, practice=True) == [], "practice is of other clips"


def test_meta_file_in_utf_16_or_with_a_key_twice(out):
    path = out / META
    text = path.read_text()
    path.write_bytes(text.encode("utf-16"))
    write_zip(out)
    assert check(out, practice=True) == [], "the official tool reads it too"
    path.write_text(text + "results: {}\n")
    (problem,) = check(out, practice=True)
    assert re.search("cannot be read: the key 'results' is given twice in .*, line", problem)
