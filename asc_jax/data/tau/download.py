"""Fetch TAU Urban Acoustic Scenes 2022 Mobile and the split lists of DCASE 2024 Task 1.

    download("TAU-urban-acoustic-scenes-2022-mobile-development")

The unpacked wav files take 30.5 GB. Every step can be interrupted and is continued by the next
call. An archive that lies in `DIR/archives/` or in `DIR` already is not fetched again. Each is
unpacked after a check of its md5 only. Those in `DIR/archives/` are deleted once their files are in
place, and a list of the files stays there.

Source: Zenodo record 6337421 (file names and md5 in tau2022_archives.csv) and the release
`files` of the official baseline's repository.
"""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from asc_jax.data.tau.fetch import content_length, extract, fetch, file_md5
from asc_jax.data.tau.folder import named_rows
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.staging import check_room

log = logging.getLogger("asc_jax")

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
        if not missing:
            return
        (tau_dir / "archives").mkdir(parents=True, exist_ok=True)
        pages = {f"{archives_url}/{archive.zenodo_record}" for archive in missing}
        by_hand = (
            f"By hand: open {' and '.join(sorted(pages))} in a browser, save the zip files as they "
            f"are in {tau_dir}, and run the same command again: it checks and unpacks them"
        )
        _check_disk(tau_dir, missing, by_hand)
        for archive, url in missing.items():
            _unpack(f"{url}?download=1", tau_dir, archive, by_hand)
    except OSError as error:
        raise UserError(
            f"cannot write to {tau_dir}: {files.reason(error)}; fix that and run the same command "
            "again: it continues where it stopped"
        ) from error


def _fetch_list(url: str, path: Path, sha256: str) -> None:
    """Fetch a list unless there is one; carriage returns are taken out before the check."""
    if path.exists():
        return
    raw = path.with_suffix(".raw")
    by_hand = f"By hand: open {url} in a browser, save it as {path}, and run the same command again"
    for _ in range(2):
        fetch(url, raw, None, by_hand=by_hand)
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
    unpacking = (tau_dir / "archives").is_dir() and any((tau_dir / "archives").iterdir())
    if unpacking or not (tau_dir / "meta.csv").is_file():
        return False
    try:
        rows = named_rows(tau_dir / "meta.csv", tau_dir, ("filename",))
        return all((tau_dir / row["filename"]).is_file() for _, row in rows)
    except (OSError, UserError):  # a name that no file can have, or no table
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


def _check_disk(tau_dir: Path, missing: dict[Archive, str], by_hand: str) -> None:
    """Require room for all files and the largest archive, which goes once it is unpacked."""
    n_bytes, to_fetch = 0, [0]
    for archive, url in missing.items():
        if there := _lying_there(tau_dir, archive):
            n_bytes += there[0].stat().st_size
        else:
            to_fetch.append(content_length(url, by_hand=by_hand))
    check_room(tau_dir, int(EXTRACTED * (n_bytes + sum(to_fetch)) + max(to_fetch)))


def _lying_there(tau_dir: Path, archive: Archive) -> list[Path]:
    """Return the files of an archive's name: where it is put, and where people put it."""
    paths = (tau_dir / "archives" / archive.filename, tau_dir / archive.filename)
    return [path for path in paths if path.is_file()]


def _unpack(url: str, tau_dir: Path, archive: Archive, by_hand: str) -> None:
    """Unpack an archive that lies there or is fetched; record its files."""
    own = tau_dir / "archives" / archive.filename
    path = _published(tau_dir, archive)
    if path is None:
        fetch(url, own, archive.md5, by_hand=by_hand)
        path = own
    sizes = extract(path, tau_dir, strip=TOP_FOLDER)
    record = json.dumps({"md5": archive.md5, "files": sizes})
    files.write_atomically(_record_path(tau_dir, archive), record)
    if path == own:
        path.unlink()


def _published(tau_dir: Path, archive: Archive) -> Path | None:
    """Return where an archive lies already; one of another content is named and left out."""
    for path in _lying_there(tau_dir, archive):
        found = file_md5(path)
        if found == archive.md5:
            return path
        log.warning(
            "%s is not the published archive, or not all of it (md5 %s, expected %s): it is "
            "downloaded again",
            *(path, found, archive.md5),
        )
    return None
