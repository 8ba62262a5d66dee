"""Fetch TAU Urban Acoustic Scenes 2022 Mobile and the split lists of DCASE 2024 Task 1.

    download("TAU-urban-acoustic-scenes-2022-mobile-development")

The unpacked wav files take 30.5 GB. Every step can be interrupted and is continued by the next
call. An archive is deleted once its files are in place, and a list of them stays in
`DIR/archives/`. An archive that already lies there is unpacked without a check of its md5.

Source: Zenodo record 6337421 (file names and md5 in tau2022_archives.csv) and the release
`files` of the official baseline's repository.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from asc_jax.data.tau.fetch import content_length, extract, fetch
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.staging import check_room

ARCHIVES_URL = "https://zenodo.org/records"
LISTS_URL = "https://github.com/CPJKU/dcase2024_task1_baseline/releases/download/files"
TOP_FOLDER = "TAU-urban-acoustic-scenes-2022-mobile-development"  # inside the archives
EXTRACTED = 1.25  # bytes of the files per byte of their archive, at most
# sha256 of the official lists with plain line feeds. The 100 % list is the data set's own.
LISTS_SHA256 = {
    "split5.csv": "c7dadadd39bb96e0c0fdd98b88a03b6f671ea6544ed318ffadc2be3f23c6daef",
    "split10.csv": "69608bd9b241534e7cf79aefadbca3535bc0fe5ffcd1e5584f116a2b34ccf711",
    "split25.csv": "cacc595c8e4950a89544b6852b362a8a008c3f4d82b29eda5a5abb6fa4ecad1a",
    "split50.csv": "8937e3f534143351280c1946501f7cff21cd07683e9bc254d50fdc365f9d6877",
    "test.csv": "efe84eb90ebe11931f93f0877f8b3405d7684652cd3d2e2784e95ec39d8888a8",
}


class Archive(NamedTuple):
    """A row of tau2022_archives.csv."""

    filename: str
    md5: str
    zenodo_record: str


def archives() -> list[Archive]:
    """Return the archives of the development set."""
    path = Path(__file__).with_name("tau2022_archives.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [Archive(**row) for row in csv.DictReader(file)]


def download(
    tau_dir: str | os.PathLike,
    *,
    wanted: Iterable[Archive] | None = None,
    archives_url: str = ARCHIVES_URL,
    lists_url: str = LISTS_URL,
    lists_sha256: dict[str, str] | None = None,
) -> None:
    """Complete a folder in TAU's layout.

    Args:
      tau_dir: the folder; made if needed. What is in it already is not fetched again.
      wanted: archives; None: those of the development set, unless `meta.csv` and every
        clip it lists are there.
      archives_url: files are expected at `<archives_url>/<record>/files/<filename>`.
      lists_url: lists are expected at `<lists_url>/<name>`.
      lists_sha256: list → hash; None: the official ones.

    Raises:
      UserError: the network fails, a file is not the published one, the disk is too small,
        or `tau_dir` cannot be written.
    """
    tau_dir = Path(tau_dir)
    try:
        (tau_dir / "archives").mkdir(parents=True, exist_ok=True)
        # The lists first: they are small, and show at once whether the network works.
        sums = LISTS_SHA256 if lists_sha256 is None else lists_sha256
        for name, sha256 in sums.items():
            _fetch_list(f"{lists_url}/{name}", tau_dir / "split_setup" / name, sha256)
        if wanted is None:
            wanted = [] if _has_clips(tau_dir) else archives()
        missing = {
            archive: f"{archives_url}/{archive.zenodo_record}/files/{archive.filename}"
            for archive in wanted
            if not _is_extracted(tau_dir, archive)
        }
        _check_disk(tau_dir, missing)
        for archive, url in missing.items():
            _fetch_archive(f"{url}?download=1", tau_dir, archive)
    except OSError as error:
        raise UserError(f"cannot write to {tau_dir}: {error}") from error


def _fetch_list(url: str, path: Path, sha256: str) -> None:
    """Fetch a list unless there is one; carriage returns are taken out before the check."""
    if path.exists():
        return
    raw = path.with_suffix(".raw")
    for _ in range(2):
        fetch(url, raw, None)
        text = raw.read_bytes().replace(b"\r", b"")
        raw.unlink()
        found = hashlib.sha256(text).hexdigest()
        if found == sha256:
            files.write_atomically(path, text, sync=False)
            return
    raise UserError(
        f"{path.name}: sha256 {found}, expected {sha256}, downloaded twice from {url}; the "
        "file there is not the official list"
    )


def _has_clips(tau_dir: Path) -> bool:
    """Return whether somebody already unpacked the data set here."""
    if not (tau_dir / "meta.csv").is_file() or any((tau_dir / "archives").iterdir()):
        return False
    with (tau_dir / "meta.csv").open(encoding="utf-8-sig", errors="replace") as file:
        names = [line.partition("\t")[0] for line in file][1:]
    try:
        return all((tau_dir / name).is_file() for name in names)
    except OSError:  # a name that no file can have
        return False


def _record_path(tau_dir: Path, archive: Archive) -> Path:
    return tau_dir / "archives" / f"{archive.filename}.json"


def _is_extracted(tau_dir: Path, archive: Archive) -> bool:
    """Return whether all files of an archive are in place, by their names and sizes."""
    try:
        record = files.parse_json(_record_path(tau_dir, archive).read_text(encoding="utf-8"))
        return record["md5"] == archive.md5 and all(
            (tau_dir / name).stat().st_size == size for name, size in record["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _check_disk(tau_dir: Path, missing: dict[Archive, str]) -> None:
    """Require room for all files and the largest archive, which goes once it is unpacked."""
    sizes = [content_length(url) for url in missing.values()]
    check_room(tau_dir, int(EXTRACTED * sum(sizes) + max(sizes, default=0)))


def _fetch_archive(url: str, tau_dir: Path, archive: Archive) -> None:
    path = tau_dir / "archives" / archive.filename
    if not path.exists():
        fetch(url, path, archive.md5)
    sizes = extract(path, tau_dir, strip=TOP_FOLDER)
    record = json.dumps({"md5": archive.md5, "files": sizes})
    files.write_atomically(_record_path(tau_dir, archive), record)
    path.unlink()
