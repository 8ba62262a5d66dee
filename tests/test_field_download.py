"""Downloads from servers, through proxies and onto disks as people meet them."""

import contextlib
import email.utils
import errno
import hashlib
import http.server
import logging
import pathlib
import re
import threading
import time
import types
import zipfile

import pytest
from tau_folder import write_tau

import asc_jax
from asc_jax.data.tau import download as tau
from asc_jax.data.tau import fetch
from asc_jax.errors import UserError

DATA = bytes(range(256)) * 400
PAGE = b"<!DOCTYPE html><title>Maintenance</title>"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers as `server.answers` says, one after the other; the last one stays.

    Each is a status, headers and a body, or a function of the handler.
    """

    def do_GET(self):
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        status, headers, body = answer(self) if callable(answer) else answer
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def _serve():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.asked, server.answers = [], [(200, {}, DATA)]
        server.url = f"http://127.0.0.1:{server.server_port}/a"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server():
    with _serve() as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The pauses that were made, in seconds, without making them."""
    waits = []
    monkeypatch.setattr(fetch, "time", types.SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return waits


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asc_jax"), "propagate", True)
    return caplog


MD5 = hashlib.md5(DATA).hexdigest()


def _refused(server, path, **options):
    with pytest.raises(UserError) as error:
        fetch.fetch(server.url, path, MD5, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def _only_named_programs(handler):
    name = handler.headers["User-Agent"]
    if "python" in name.lower() or "requests" in name:
        return 403, {}, b""
    return 200, {}, DATA


def test_b01_every_request_names_this_program(server, tmp_path):
    server.answers = [_only_named_programs]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert fetch.content_length(server.url) == len(DATA)
    names = {headers["User-Agent"] for _, _, headers in server.asked}
    assert len(names) == 1
    assert re.match(rf"asc-jax/{re.escape(asc_jax.__version__)} \(.+\)$", names.pop())


def test_b01_refused_program_is_told_how_to_get_the_file_by_hand(server, tmp_path, waits):
    server.answers = [(403, {}, b"no robots")]
    message = _refused(server, tmp_path / "a", by_hand="By hand: open the page")
    assert "answers 403 Forbidden: it rejects this program" in message
    assert message.endswith("By hand: open the page")
    assert "network and run" not in message
    assert (len(server.asked), waits) == (1, [])


def test_b01_refused_download_says_where_the_files_go(server, tmp_path):
    server.answers = [(403, {}, b"")]
    url = server.url.removesuffix("/a")
    options = {"archives_url": f"{url}/records", "lists_url": f"{url}/lists"}
    archive = tau.Archive("0.zip", MD5, "7")
    folder = tmp_path / "TAU"
    with pytest.raises(UserError) as error:
        tau.download(folder, wanted=[archive], lists_sha256={}, **options)
    assert f"open {url}/records/7 in a browser, save the zip files" in str(error.value)
    assert f"in {folder}, and run the same command again" in str(error.value)
    with pytest.raises(UserError) as error:
        tau.download(folder, wanted=[], lists_sha256={"test.csv": "0"}, **options)
    assert f"open {url}/lists/test.csv in a browser, save it as {folder}/split_setup/test.csv" in (
        str(error.value)
    )


def test_server_that_answers_no_head_is_no_obstacle(server):
    for status in (403, 405, 501):
        server.answers = [(status, {}, b"")]
        assert fetch.content_length(server.url) == 0


@pytest.mark.parametrize("status", [429, 503])
def test_b10_wait_as_long_as_the_server_asks(server, tmp_path, waits, said, status):
    server.answers = [(status, {"Retry-After": "30"}, b"")] * 2 + [(200, {}, DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == DATA
    assert waits == [30, 30]
    assert [record.message.partition(": ")[2] for record in said.records] == [
        f"the server answers {status} {http.HTTPStatus(status).phrase}; waiting 30 s"
    ] * 2


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (lambda: email.utils.formatdate(time.time() + 100, usegmt=True), 90, 100),
        (lambda: email.utils.formatdate(time.time() + 100), 90, 100),  # "-0000"
        (lambda: "86400", 600, 600),
        (lambda: "9" * 5000, 600, 600),
        (lambda: email.utils.formatdate(time.time() + 10**8, usegmt=True), 600, 600),
        (lambda: None, 60, 60),  # limits per minute are the rule
        (lambda: "soon", 60, 60),
        (lambda: "-5", 60, 60),
        (lambda: "0", 1, 1),
        (lambda: "Thu, 01 Jan 1970 00:00:00 GMT", 1, 1),
        (lambda: "Thu, 99 Jan 1970 00:00:00 GMT", 60, 60),
    ],
)
def test_b10_any_form_of_retry_after(server, tmp_path, waits, asked, least, most):
    server.answers = [(429, {"Retry-After": asked()}, b""), (200, {}, DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert len(waits) == 1
    assert least <= waits[0] <= most


def test_b10_limit_that_stays_ends_with_what_the_server_said(server, tmp_path, waits):
    server.answers = [(429, {"Retry-After": "7"}, b"")]
    message = _refused(server, tmp_path / "a")
    assert "the server answers 429 Too Many Requests" in message
    assert "run the same command again" in message
    assert waits == [7, 7, 7, 8]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_failing_server_is_asked_again(server, tmp_path, status):
    server.answers = [(status, {}, b""), (200, {}, DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("status", [400, 401, 404, 410, 418, 451])
def test_answer_that_stays_is_not_asked_for_again(server, tmp_path, status):
    server.answers = [(status, {}, b"")]
    assert f"answers {status}" in _refused(server, tmp_path / "a")
    assert len(server.asked) == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/html; charset=utf-8"}])
def test_web_page_in_place_of_a_file_costs_nothing_of_it(server, tmp_path, headers):
    (tmp_path / "a.part").write_bytes(DATA[:5000])
    server.answers = [(200, headers, PAGE)]
    assert "sends a web page in place of the file" in _refused(server, tmp_path / "a")
    assert (tmp_path / "a.part").read_bytes() == DATA[:5000]


def _with_ranges(data):
    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(data):
            return 416, {}, b""
        return 206 if start else 200, {}, data[start:]

    return answer


def test_redirects_are_followed_with_name_and_range(server, tmp_path):
    (tmp_path / "a.part").write_bytes(DATA[:5000])
    with _serve() as other:
        other.answers = [_with_ranges(DATA)]
        there = other.url.replace("127.0.0.1", "localhost")
        server.answers = [(302, {"Location": there}, b"")]
        assert fetch.content_length(server.url) == len(DATA)
        fetch.fetch(server.url, tmp_path / "a", MD5)
        assert (tmp_path / "a").read_bytes() == DATA
        assert other.asked[-1][2]["Range"] == "bytes=5000-"
        assert other.asked[-1][2]["User-Agent"] == fetch.HEADERS["User-Agent"]


@pytest.mark.parametrize("to", ["/a", "file:///etc/passwd", "http://[bad", "ftp://127.0.0.1/a"])
def test_redirects_to_nowhere_are_told_at_once(server, tmp_path, waits, to):
    server.answers = [(302, {"Location": to}, b"")]
    assert "cannot download" in _refused(server, tmp_path / "a")
    assert waits == []


@pytest.mark.parametrize("length", [None, "abc", "-1", "9" * 5000])
def test_length_that_is_none_does_no_harm(server, tmp_path, length):
    server.answers = [(200, {"Content-Length": length}, DATA)]
    fetch.content_length(server.url)
    if length != "9" * 5000:  # then it is said to be cut off
        fetch.fetch(server.url, tmp_path / "a", MD5)
        assert (tmp_path / "a").read_bytes() == DATA


def test_transfer_cut_off_that_gave_no_length_is_noticed(server, tmp_path):
    cut = (200, {"Content-Length": None}, DATA[:3000])
    server.answers = [cut, (200, {"Content-Length": None}, DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == DATA
    server.answers = [cut]
    assert "twice (3,000 bytes)" in _refused(server, tmp_path / "b")


def test_file_that_changes_between_two_attempts_is_fetched_whole(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"of an older file" * 100)
    server.answers = [_with_ranges(DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == DATA


def test_longer_part_than_the_file_is_replaced(server, tmp_path):
    (tmp_path / "a.part").write_bytes(DATA * 2)
    server.answers = [_with_ranges(DATA)]
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == DATA


def test_nothing_is_asked_for_in_compressed_form(server, tmp_path):
    fetch.fetch(server.url, tmp_path / "a", MD5)
    assert server.asked[0][2]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://[bad", "socks5://127.0.0.1:9"])
def test_proxy_that_is_not_there_is_named(tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UserError, match=r"cannot download https://example.invalid/a: .*HTTPS_PROX"):
        fetch.fetch("https://example.invalid/a", tmp_path / "a", MD5)


def test_no_tls_tells_of_certificates(server, tmp_path, monkeypatch):
    url = server.url.replace("http:", "https:")
    with pytest.raises(UserError, match="name their file in REQUESTS_CA_BUNDLE and run"):
        fetch.fetch(url, tmp_path / "a", MD5)


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device", "a.part")


def test_full_disk_is_told_and_the_download_goes_on_later(server, tmp_path, monkeypatch):
    options = {"archives_url": server.url, "lists_sha256": {}}
    archive = tau.Archive("0.zip", MD5, "7")
    monkeypatch.setattr(tau, "fetch", _full)
    with pytest.raises(UserError, match=r"No space left on device \(a.part\); .* it continues"):
        tau.download(tmp_path, wanted=[archive], **options)


def test_full_disk_while_unpacking_is_not_called_damage(tmp_path, monkeypatch):
    _zip(tmp_path / "a.zip", {"x": DATA})
    monkeypatch.setattr(fetch.shutil, "copyfileobj", _full)
    with pytest.raises(UserError, match=r"cannot unpack .*No space left.*continues") as error:
        fetch.extract(tmp_path / "a.zip", tmp_path / "out")
    assert "damaged" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def _zip(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path.read_bytes()


@pytest.fixture
def published(server, tmp_path):
    """The keywords of `download` for one archive, which the server has, and its bytes."""
    content = _zip(tmp_path / "0.zip", {f"{tau.TOP_FOLDER}/meta.csv": "true"})
    server.answers = [_with_ranges(content)]
    archive = tau.Archive("0.zip", hashlib.md5(content).hexdigest(), "7")
    return {"wanted": [archive], "archives_url": server.url, "lists_sha256": {}}, content


@pytest.mark.parametrize("folder", ["archives", "."])
def test_b11_archive_lying_there_is_checked_before_it_is_unpacked(
    published, server, tmp_path, said, folder
):
    options, content = published
    path = tmp_path / "TAU" / folder / "0.zip"
    _zip(path, {f"{tau.TOP_FOLDER}/meta.csv": "tampered", f"{tau.TOP_FOLDER}/more": "x"})
    tau.download(tmp_path / "TAU", **options)
    assert (tmp_path / "TAU/meta.csv").read_text() == "true"
    assert not (tmp_path / "TAU/more").exists()
    (record,) = said.records
    assert f"{path} is not the published archive" in record.message
    assert "downloaded again" in record.message
    assert len(server.asked) == 1


@pytest.mark.parametrize("folder", ["archives", "."])
def test_b11_archive_fetched_by_hand_is_taken_without_the_network(
    published, server, tmp_path, said, folder
):
    options, content = published
    path = tmp_path / "TAU" / folder / "0.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    tau.download(tmp_path / "TAU", **options)
    assert (tmp_path / "TAU/meta.csv").read_text() == "true"
    assert path.exists() == (folder == ".")  # what is not ours is not deleted
    tau.download(tmp_path / "TAU", **options)
    assert (server.asked, said.records) == ([], [])


def test_b11_half_an_archive_is_fetched_again(published, tmp_path, said):
    options, content = published
    path = tmp_path / "TAU/archives/0.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:50])
    tau.download(tmp_path / "TAU", **options)
    assert (tmp_path / "TAU/meta.csv").read_text() == "true"
    assert "or not all of it" in said.text


def test_file_where_the_folder_of_archives_belongs_is_named(tmp_path):
    (tmp_path / "archives").touch()
    with pytest.raises(UserError, match=r"cannot write to .*File exists \(.*archives\)"):
        tau.download(tmp_path, wanted=[tau.Archive("a", "0", "1")], lists_sha256={})


def test_complete_folder_is_not_written_to(server, tmp_path):
    """It may be another person's, or a read-only disk."""
    folder = write_tau(tmp_path / "TAU", n_train=1, n_test=1)
    before = sorted(folder.rglob("*"))
    tau.download(folder, lists_sha256={"test.csv": "0"})
    assert sorted(folder.rglob("*")) == before
    assert server.asked == []


def test_archive_with_a_file_and_a_folder_of_one_name_is_refused(tmp_path):
    _zip(tmp_path / "a.zip", {"a": b"1", "a/b": b"2"})
    with pytest.raises(UserError, match="cannot unpack .*"):
        fetch.extract(tmp_path / "a.zip", tmp_path / "out")


def test_archive_that_asks_for_a_password_is_refused(tmp_path):
    content = bytearray(_zip(tmp_path / "a.zip", {"a": b"1"}))
    for at in (6, content.index(b"PK\1\2") + 8):
        content[at] |= 1
    pathlib.Path(tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        fetch.extract(tmp_path / "a.zip", tmp_path / "out")
