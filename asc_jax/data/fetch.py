"""Downloads that survive interruptions, and archives that stay in their folder."""

import hashlib
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from asc_jax.errors import UserError

ATTEMPTS = 5  # in a row without a byte gained
TIMEOUT_S = (10, 60)  # to connect, between two packets
CHUNK = 1 << 16  # bytes; when a connection breaks, those of the last chunk are lost


def content_length(url: str) -> int:
    """Ask how many bytes a URL has; 0 if the server does not say."""

    def ask() -> int:
        with requests.head(url, timeout=TIMEOUT_S, allow_redirects=True) as response:
            response.raise_for_status()
            return int(response.headers.get("Content-Length", 0))

    return _persist(ask, url)


def fetch(url: str, path: Path, digest: str | None, *, algorithm: str = "md5") -> None:
    """Download a file; what an earlier attempt got of it is kept and continued.

    Args:
      url: http or https.
      path: file to write; until it is complete and checked it is called `<path>.part`.
      digest: expected hash in hexadecimal; None skips the check.
      algorithm: name for hashlib.

    Raises:
      UserError: the network fails ATTEMPTS times without progress, or the hash is wrong
        twice.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _persist(lambda: _continue(url, part), url, lambda: _size(part))
        found = file_digest(part, algorithm)
        if digest in (None, found):
            part.replace(path)
            return
        part.unlink()
    raise UserError(
        f"{path.name}: {algorithm} {found}, expected {digest}, downloaded twice from "
        f"{url}; the file there has changed or is damaged"
    )


def file_digest(path: Path, algorithm: str) -> str:
    """Hash of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path) -> None:
    """Fetch what `part` still lacks."""
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing, or the hash will tell
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # the server sends it from the beginning
        total = int(response.headers.get("Content-Length", 0)) + start
        bar = tqdm(desc=part.stem, total=total or None, initial=start, unit="B", unit_scale=True)
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _persist(action: Callable, url: str, progress: Callable[[], int] = int):
    """Repeat `action` over network failures while it gets further."""
    failed, reached = 0, progress()
    while True:
        try:
            return action()
        except requests.RequestException as error:
            failed = 1 if progress() > reached else failed + 1
            reached = progress()
            response = getattr(error, "response", None)
            gone = response is not None and response.status_code in (401, 403, 404, 410)
            if gone or failed >= ATTEMPTS:
                raise UserError(
                    f"cannot download {url}: {error}. Check the network and run the same "
                    "command again: it continues where it stopped"
                ) from error
            time.sleep(_pause_s(failed))


def _pause_s(failed: int) -> float:
    return 0.5 * 2.0**failed


def extract(archive: Path, folder: Path, *, strip: str = "") -> dict[str, int]:
    """Unpack a zip file; files that are there in full are not written again.

    Args:
      archive: zip file.
      folder: where to; no entry may lead out of it.
      strip: top folder of the entries to leave out, if they have it.

    Returns:
      Relative path → bytes of every file of the archive.

    Raises:
      UserError: the archive is damaged or an entry leads out of `folder` or is a link; in
        the latter case nothing is written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = {_inside(entry, archive, strip): entry for entry in file.infolist()}
            entries = {name: entry for name, entry in entries.items() if not entry.is_dir()}
            for name, entry in tqdm(entries.items(), desc=archive.name, unit=" files"):
                if _size(folder / name) != entry.file_size or not entry.file_size:
                    _write_entry(file, entry, folder / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{archive} is damaged ({error}): delete it and run again") from error
    return {name: entry.file_size for name, entry in entries.items()}


def _inside(entry: zipfile.ZipInfo, archive: Path, strip: str) -> str:
    """Name of an entry below the folder; refuses what would end up elsewhere."""
    name = PurePosixPath(entry.orig_filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    strange = any(sign in entry.orig_filename for sign in ":\0")
    if link or strange or name.is_absolute() or ".." in name.parts:
        raise UserError(
            f"{archive}: the entry {entry.orig_filename!r} is a link or leads out of the "
            "folder; nothing was extracted"
        )
    if name.parts[:1] == (strip,):
        name = PurePosixPath(*name.parts[1:])
    return str(name)


def _write_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with file.open(entry) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target)
    os.replace(part, path)
