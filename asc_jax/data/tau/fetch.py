"""Downloads that survive interruptions, and archives that stay in their folder."""

import hashlib
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from asc_jax.errors import UserError
from asc_jax.machine.files import atomic_writer

ATTEMPTS = 5  # in a row without a byte gained
TIMEOUT_S = (10, 60)  # to connect, between two packets
MAX_EXPANSION = 100  # bytes of all files per byte of an archive; sound gives about 1.25
# What zipfile and the libraries under it raise for a file that is none of theirs.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
    *(ValueError, IndexError, OverflowError, struct.error),
)
CHUNK = 1 << 16  # bytes; when a connection breaks, those of the last chunk are lost


def content_length(url: str) -> int:
    """Return how many bytes a URL has; 0 if the server does not say."""

    def ask() -> int:
        with requests.head(url, timeout=TIMEOUT_S, allow_redirects=True) as response:
            response.raise_for_status()
            return int(response.headers.get("Content-Length", 0))

    return _persist(ask, url)


def fetch(url: str, path: Path, md5: str | None) -> None:
    """Download a file; what an earlier attempt got of it is kept and continued.

    Args:
      url: http or https.
      path: file to write; until it is complete and checked it is called `<path>.part`.
      md5: expected hash in hexadecimal; None skips the check.

    Raises:
      UserError: the network fails ATTEMPTS times without progress, or the hash is wrong
        twice.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _persist(lambda: _continue(url, part), url, lambda: _size(part))
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if md5 in (None, found):
            part.replace(path)
            return
        part.unlink()
    raise UserError(
        f"{path.name}: md5 {found}, expected {md5}, downloaded twice from "
        f"{url}; the file there has changed or is damaged"
    )


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
      UserError: the archive is damaged or `folder` cannot be written. Or, before anything is
        written: an entry leads out of `folder`, is a link, has no name or is packed in another
        way than zip files usually are, or all unpack to far more than they take.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = {_inside(entry, archive, strip): entry for entry in file.infolist()}
            entries = {name: entry for name, entry in entries.items() if not entry.is_dir()}
            _check_size(archive, entries.values())
            for name, entry in tqdm(entries.items(), desc=archive.name, unit=" files"):
                path = folder / name
                if _size(path) != entry.file_size or not entry.file_size:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(entry) as source, atomic_writer(path, sync=False) as target:
                        shutil.copyfileobj(source, target)
    except _DAMAGED as error:
        raise UserError(f"{archive} is damaged ({error}): delete it and run again") from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive} into {folder}: {error}") from error
    return {name: entry.file_size for name, entry in entries.items()}


def _check_size(archive: Path, entries: Collection[zipfile.ZipInfo]) -> None:
    """Reject what would fill the disk or the memory; more than entries say is never written."""
    strange = [
        e for e in entries if e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    if strange:  # the dictionary of LZMA may take 4 GiB
        raise UserError(
            f"{archive}: the entry {strange[0].filename!r} is neither stored nor deflated: pack "
            "the archive again; nothing was extracted"
        )
    n_bytes = sum(entry.file_size for entry in entries)
    limit = MAX_EXPANSION * max(_size(archive), 2**20)
    if n_bytes > limit:
        raise UserError(
            f"{archive} says that it holds {n_bytes:,} bytes, more than {MAX_EXPANSION} times its "
            "own size; nothing was extracted"
        )


def _inside(entry: zipfile.ZipInfo, archive: Path, strip: str) -> str:
    """Return the name of an entry below the folder; reject what would end up elsewhere."""
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
    if not name.parts and not entry.is_dir():
        raise UserError(f"{archive}: the entry {entry.orig_filename!r} has no name")
    return str(name)
