"""Downloads continue, are checked, and write nowhere but in their folder."""

import hashlib
import http.server
import shutil
import threading
import zipfile

import pytest
from tau_folder import write_tau

from asc_jax.data.tau import download as tau
from asc_jax.data.tau import fetch
from asc_jax.errors import UserError

DATA = bytes(range(256)) * 2000


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files with ranges; `server.cuts` says after how many bytes to break off."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def _answer(self, with_body):
        server, path = self.server, self.path.split("?")[0]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if server.ranges else 0
        server.asked.append((self.command, path, start))
        if path not in server.files:
            return self.send_error(404)
        data = server.files[path]
        if start >= len(data) > 0 and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(server.length or len(data) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if with_body and server.cuts else None
        if with_body:
            self.wfile.write(data[start:][:cut])
        return None


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files, server.cuts, server.asked = {"/a": DATA}, [], []
        server.ranges, server.length = True, None
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    monkeypatch.setattr(fetch, "_pause_s", lambda failed: 0.0)


def _md5(data):
    return hashlib.md5(data).hexdigest()


def test_fetch_continues_where_the_connection_broke(server, tmp_path):
    server.cuts = [100_000]
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [("GET", "/a", 0), ("GET", "/a", 100_000)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_fetch_continues_an_earlier_run(server, tmp_path):
    (tmp_path / "a.part").write_bytes(DATA[:1000])
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [("GET", "/a", 1000)]


def test_fetch_takes_a_complete_part_as_it_is(server, tmp_path):
    (tmp_path / "a.part").write_bytes(DATA)
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA


def test_fetch_starts_again_where_ranges_are_not_known(server, tmp_path):
    server.ranges = False
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA


def test_fetch_survives_many_breaks_that_make_progress(server, tmp_path):
    server.cuts = [50_000] * 9
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA


def test_wrong_hash_is_retried_once_then_refused(server, tmp_path):
    with pytest.raises(UserError, match=f"a: md5 {_md5(DATA)}, expected 0123"):
        fetch.fetch(f"{server.url}/a", tmp_path / "a", "0123")
    assert len(server.asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_damaged_part_is_replaced(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a").read_bytes() == DATA


def test_network_failure_says_to_run_again(server, tmp_path):
    server.cuts = [1000] + [0] * 9
    with pytest.raises(UserError, match=r"cannot download .*/a: .*continues where it stopped"):
        fetch.fetch(f"{server.url}/a", tmp_path / "a", _md5(DATA))
    assert (tmp_path / "a.part").read_bytes() == DATA[:1000]


def test_missing_file_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(UserError, match="404"):
        fetch.fetch(f"{server.url}/b", tmp_path / "b", None)
    assert len(server.asked) == 1


def _zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, data in entries:
            file.writestr(entry, data)
    return path


def _link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "entry",
    ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "C:evil", _link("link")],
)
def test_extract_refuses_entries_that_lead_out(tmp_path, entry):
    archive = _zip(tmp_path / "a.zip", [("good", b"1"), (entry, b"/etc/passwd")])
    with pytest.raises(UserError, match="is a link or leads out"):
        fetch.extract(archive, tmp_path / "inside")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_extract_strips_the_top_folder_and_completes(tmp_path):
    archive = _zip(tmp_path / "a.zip", [("top/x/1", b"one"), ("top/2", b"two"), ("3", b"")])
    folder = tmp_path / "out"
    expected = {"x/1": 3, "2": 3, "3": 0}
    assert fetch.extract(archive, folder, strip="top") == expected
    (folder / "2").write_bytes(b"t")
    untouched = (folder / "x/1").stat().st_mtime_ns
    assert fetch.extract(archive, folder, strip="top") == expected
    assert (folder / "2").read_bytes() == b"two"
    assert (folder / "x/1").stat().st_mtime_ns == untouched


def test_extract_refuses_damaged_archives(tmp_path):
    archive = _zip(tmp_path / "a.zip", [("x", DATA)])
    data = bytearray(archive.read_bytes())
    data[200:210] = bytes(10)
    for damaged in (bytes(data), bytes(data[:300])):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match="a.zip is damaged.*delete it"):
            fetch.extract(archive, tmp_path / "out")
        assert not (tmp_path / "out" / "x").exists()


@pytest.fixture
def published(server, tmp_path):
    """A server with a small TAU in two archives; the keywords of `download` for it."""
    source = write_tau(tmp_path / "source", n_train=3, n_test=2)
    lists = {}
    for path in (source / "split_setup").iterdir():
        text = path.read_bytes()
        lists[path.name] = hashlib.sha256(text).hexdigest()
        server.files[f"/lists/{path.name}"] = text.replace(b"\n", b"\r\n")
    shutil.rmtree(source / "split_setup")
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    wanted = []
    for number, part in enumerate((files[:3], files[3:])):
        entries = [(f"{tau.TOP_FOLDER}/{p.relative_to(source)}", p.read_bytes()) for p in part]
        data = _zip(tmp_path / "zip", entries).read_bytes()
        wanted.append(tau.Archive(f"{number}.zip", _md5(data), "7"))
        server.files[f"/records/7/files/{number}.zip"] = data
    return {
        "wanted": wanted,
        "archives_url": f"{server.url}/records",
        "lists_url": f"{server.url}/lists",
        "lists_sha256": lists,
    }


def test_download_gives_the_folder_and_nothing_twice(server, published, tmp_path):
    server.cuts = [10, 20]
    tau.download(tmp_path / "tau", **published)
    for path in (tmp_path / "source").rglob("*"):
        copy = tmp_path / "tau" / path.relative_to(tmp_path / "source")
        assert copy.is_dir() or copy.read_bytes() == path.read_bytes()
    assert b"\r" not in (tmp_path / "tau/split_setup/test.csv").read_bytes()
    assert not list((tmp_path / "tau").rglob("*.zip"))
    server.asked.clear()
    tau.download(tmp_path / "tau", **published)
    assert server.asked == []


def test_download_restores_a_deleted_clip(server, published, tmp_path):
    tau.download(tmp_path / "tau", **published)
    clip = next((tmp_path / "tau/audio").iterdir())
    clip.unlink()
    server.asked.clear()
    tau.download(tmp_path / "tau", **published)
    assert clip.exists()
    assert [command for command, _, _ in server.asked] == ["HEAD", "GET"]


def test_download_leaves_a_complete_folder_alone(server, published, tmp_path):
    published["wanted"] = None
    tau.download(tmp_path / "source", **published)
    assert all(path.startswith("/lists/") for _, path, _ in server.asked)
    assert (tmp_path / "source/split_setup/split5.csv").exists()


def test_download_refuses_another_list(server, published, tmp_path):
    server.files["/lists/test.csv"] = b"filename\n"
    with pytest.raises(UserError, match=r"test\.csv: sha256 .*not the official list"):
        tau.download(tmp_path / "tau", **published)
    assert not (tmp_path / "tau/split_setup/test.csv").exists()


def test_download_checks_the_disk_first(server, published, tmp_path):
    for name in published["lists_sha256"]:
        (tmp_path / "tau/split_setup").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tau/split_setup" / name).touch()
    server.length = 2**50
    with pytest.raises(UserError, match=r"3670016\.00 GiB needed, .* GiB free"):
        tau.download(tmp_path / "tau", **published)
    assert {command for command, _, _ in server.asked} == {"HEAD"}


def test_download_into_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file"):
        tau.download(tmp_path / "file", wanted=[tau.Archive("a", "0", "1")], lists_sha256={})


def test_archives_are_the_published_ones():
    archives = tau.archives()
    assert len(archives) == 18
    assert archives[0].filename == f"{tau.TOP_FOLDER}.audio.1.zip"
    assert archives[0].md5 == "8be14bdbd844481dce059ab31fbd2239"
    assert {archive.zenodo_record for archive in archives} == {"6337421"}
