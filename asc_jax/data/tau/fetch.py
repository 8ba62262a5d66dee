"""Downloads that survive interruptions, and archives that stay in their folder."""

import contextlib
import datetime
import email.utils
import hashlib
import itertools
import logging
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

import requests
import urllib3

import asc_jax
from asc_jax.errors import UserError
from asc_jax.machine import files
from asc_jax.machine.progress import Progress

log = logging.getLogger("asc_jax")

HEADERS = {
    # Some servers reject libraries that do not say which program uses them.
    "User-Agent": f"asc-jax/{asc_jax.__version__} (acoustic scene classification in JAX)",
    "Accept-Encoding": "identity",  # or lengths and ranges would be those of a compressed form
}
ATTEMPTS = 5  # in a row without a byte gained
TIMEOUT_S = (10, 60)  # to connect, between two packets
LIMIT_S = 60  # to wait where a server limits requests and does not say for how long
MAX_WAIT_S = 600  # however long a server asks to wait
REFUSED = (401, 403, 405, 451, 501)
WORTH_ANOTHER_TRY = (408, 425, 429)  # of the answers 400 to 499
MAX_EXPANSION = 100  # bytes of all files per byte of an archive; sound gives about 1.25
# What zipfile and the libraries under it raise for a file that is none of theirs.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
    *(ValueError, IndexError, OverflowError, struct.error),
)
CHUNK = 1 << 16  # bytes; when a connection breaks, those of the last chunk are lost


class _WebPage(requests.RequestException):
    """Raised when what was sent is not the file."""


def content_length(url: str, *, by_hand: str = "") -> int:
    """Return how many bytes a URL has; 0 if the server does not say. See `fetch`."""

    def ask() -> int:
        with requests.head(
            url, headers=HEADERS, timeout=TIMEOUT_S, allow_redirects=True
        ) as response:
            if response.status_code in REFUSED:  # perhaps this kind of question only
                return 0
            response.raise_for_status()
            return _length(response)

    return _persist(ask, url, by_hand)


def _length(response: requests.Response) -> int:
    """Return the number of bytes that follow; 0 if the server does not say."""
    digits = response.headers.get("Content-Length", "")
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0


def fetch(url: str, path: Path, md5: str | None, *, by_hand: str = "") -> None:
    """Download a file; what an earlier attempt got of it is kept and continued.

    Args:
      url: http or https.
      path: file to write; until it is complete and checked it is called `<path>.part`.
      md5: expected hash in hexadecimal; None skips the check.
      by_hand: how else to get the file, for the message of an error.

    Raises:
      UserError: the network fails ATTEMPTS times without progress, the server does not give
        the file out, or the hash is wrong twice.
      OSError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _persist(lambda: _continue(url, part), url, by_hand, lambda: _size(part))
        found, n_bytes = file_md5(part), _size(part)
        if md5 in (None, found):
            part.replace(path)
            return
        part.unlink()
    raise UserError(
        f"{path.name}: md5 {found}, expected {md5}, downloaded twice ({n_bytes:,} bytes) from "
        f"{url}; the file there has changed or is damaged, or the transfer is interrupted. "
        f"{by_hand}".rstrip(". ")
    )


def file_md5(path: Path) -> str:
    """Return the md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path) -> None:
    """Fetch what `part` still lacks."""
    start = _size(part)
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing, or the hash will tell
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # the server sends it from the beginning
        chunks = response.iter_content(CHUNK)
        first = next(chunks, b"")
        if start == 0 and _is_page(response, first):  # it must not replace what is there
            raise _WebPage(
                "the server sends a web page in place of the file, as for maintenance or for the "
                "login to a network"
            )
        total = _length(response) + start
        bar = Progress(
            desc=part.stem, total=total or None, initial=start, unit="B", unit_scale=True
        )
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))


def _is_page(response: requests.Response, first: bytes) -> bool:
    kind = response.headers.get("Content-Type", "").lower()
    return "text/html" in kind or first.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _persist(action: Callable, url: str, by_hand: str, progress: Callable[[], int] = int):
    """Repeat `action` over network failures while it gets further."""
    failed, reached = 0, progress()
    while True:
        try:
            return action()
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            failed = 1 if progress() > reached else failed + 1
            reached = progress()
            if _is_final(error) or failed >= ATTEMPTS:
                message = f"cannot download {url}: {_words(error)}. {by_hand}"
                raise UserError(message.rstrip(". ")) from error
            asked_s = _asked_s(getattr(error, "response", None))
            if asked_s:
                log.warning("%s: %s; waiting %.0f s", url, _answer(error.response), asked_s)
            time.sleep(max(asked_s, _pause_s(failed)))


def _is_final(error: Exception) -> bool:
    """Return whether the same question would get the same answer."""
    if isinstance(error, ValueError | requests.TooManyRedirects):  # no URL, or no proxy's
        return True
    response = getattr(error, "response", None)
    status = 0 if response is None else response.status_code
    return status in REFUSED or (400 <= status < 500 and status not in WORTH_ANOTHER_TRY)


def _words(error: Exception) -> str:
    """Say what went wrong, and what to do."""
    response = getattr(error, "response", None)
    if response is not None and response.status_code in REFUSED:
        return f"{_answer(response)}: it rejects this program, or this network"
    if response is not None and _is_final(error):
        return f"{_answer(response)}: the file has moved, or the server does not give it out"
    if isinstance(error, requests.exceptions.ProxyError):
        hint = "Check the proxy (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"
    elif isinstance(error, requests.exceptions.SSLError):
        hint = "If the network has certificates of its own, name their file in REQUESTS_CA_BUNDLE"
    elif _is_final(error):
        return f"{error} (are HTTPS_PROXY, HTTP_PROXY and ALL_PROXY correct?)"
    else:
        hint = "Check the network"
    words = error if response is None else _answer(response)
    return f"{words}. {hint} and run the same command again: it continues where it stopped"


def _answer(response: requests.Response) -> str:
    return f"the server answers {response.status_code} {response.reason}".strip()


def _asked_s(response: requests.Response | None) -> float:
    """Return how many seconds a server asks to wait, at most MAX_WAIT_S; 0 if it does not."""
    if response is None:
        return 0.0
    asked = response.headers.get("Retry-After", "").strip()
    seconds = LIMIT_S if response.status_code == requests.codes.too_many_requests else 0.0
    if asked.isdecimal():
        seconds = float(asked)
    elif asked:
        with contextlib.suppress(ValueError):
            date = email.utils.parsedate_to_datetime(asked)
            now = datetime.datetime.now(date.tzinfo or datetime.UTC)
            seconds = (date.replace(tzinfo=now.tzinfo) - now).total_seconds()
    return min(max(seconds, 0.0), MAX_WAIT_S)


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
            for name, entry in Progress(entries.items(), desc=archive.name, unit=" files"):
                path = folder / name
                if _size(path) != entry.file_size or not entry.file_size:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with (
                        file.open(entry) as source,
                        files.atomic_writer(path, sync=False) as target,
                    ):
                        shutil.copyfileobj(source, target)
    except _DAMAGED as error:
        raise UserError(f"{archive} is damaged ({error}): delete it and run again") from error
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive} into {folder}: {files.reason(error)}; fix that and run the "
            "same command again: it continues where it stopped"
        ) from error
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
