"""Readers of what a data set is made of, and of recordings."""

import io
import json
import zipfile
from random import Random

import numpy as np

from asc_jax.data import recordings
from asc_jax.data import teacher_logits as logits_files
from asc_jax.data.store import reader
from asc_jax.data.tau import download, fetch
from asc_jax.data.tau import folder as tau
from asc_jax.data.tau import wav as wav_files
from asc_jax.data.tau.taxonomy import DEVICES, SCENES

from . import mutate
from .judge import Reader

KINDS_OF_LOGITS = ("a.npz", "b.npy", "b.index.json")
COLUMNS = ("filename", "scene_label", "identifier", "source_label")


def meta_csv(n: int = 6) -> bytes:
    """`meta.csv` of clips that `tau_folder` makes."""
    rows = [
        (
            f"audio/{SCENES[i]}-lisbon-{i}-{i}-0-{DEVICES[i]}.wav",
            SCENES[i],
            f"lisbon-{i}",
            DEVICES[i],
        )
        for i in range(n)
    ]
    return "".join("\t".join(row) + "\n" for row in [COLUMNS, *rows]).encode()


def table(scratch) -> Reader:
    """Tab-separated lists."""
    path = scratch / "list.csv"

    def read(data):
        path.write_bytes(data)
        tau.read_table(path, COLUMNS)

    seeds = (meta_csv(), meta_csv(1).replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + meta_csv(2))
    return Reader(read, mutate.of_bytes, seeds)


def tau_folder(scratch) -> Reader:
    """A whole folder, whose meta.csv (first byte even) or list of a split is damaged."""
    (scratch / "audio").mkdir()
    (scratch / "split_setup").mkdir()
    for line in meta_csv().decode().splitlines()[1:]:
        (scratch / line.split("\t")[0]).write_bytes(b"RIFF")
    good = meta_csv()
    files = (scratch / "meta.csv", scratch / "split_setup" / "split5.csv")

    def read(data):
        for number, path in enumerate(files):
            path.write_bytes(data[1:] if data[:1] == bytes([number]) else good)
        tau.read_recordings(scratch)
        download._has_clips(scratch)

    def change(rng: Random, seed: bytes) -> bytes:
        return seed[:1] + mutate.of_bytes(rng, seed[1:])

    (scratch / "archives").mkdir()
    return Reader(read, change, (b"\0" + good, b"\1" + good), many_lines=True)


def sound(kind: str, subtype: str | None = None, *, n=4410, channels=1, rate=44_100) -> bytes:
    """A file of noise."""
    import soundfile

    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (n, channels))
    soundfile.write(file, noise, rate, format=kind, subtype=subtype)
    return file.getvalue()


def wav(scratch) -> Reader:
    """A clip of a data set; its header is damaged more often than its samples."""
    path = scratch / "clip.wav"

    def read(data):
        path.write_bytes(data)
        wav_files.read_wav(path)

    def change(rng: Random, seed: bytes) -> bytes:
        return mutate.of_bytes(rng, seed, SOUND_WORDS, head=rng.choice((60, 60, 60, 0)))

    return Reader(read, change, tuple(sound("WAV", s, n=44_100) for s in ("PCM_16", "PCM_24")))


SOUND_WORDS = (
    *(b"RIFF", b"RIFX", b"RF64", b"WAVE", b"fmt ", b"data", b"LIST", b"fact", b"ds64", b"cue "),
    *(b"fLaC", b"OggS", b"FORM", b"AIFC", b"COMM", b"SSND", b".snd", b"caff", b"ID3\x03", b"TAG"),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x01\0\0\0"),
)


def recording(scratch) -> Reader:
    """What `predict` takes, in many formats, read to its end."""
    path = scratch / "recording.wav"

    def read(data):
        path.write_bytes(data)
        with recordings.open_recording(path) as opened:
            for _ in opened.blocks:
                pass

    def change(rng: Random, seed: bytes) -> bytes:
        return mutate.of_bytes(rng, seed, SOUND_WORDS, head=rng.choice((80, 80, 200, 0)))

    kinds = (
        *("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "MP3"),
        *("VOC", "NIST", "IRCAM"),
    )
    seeds = [sound(kind) for kind in kinds]
    seeds += [sound("WAV", s, channels=2) for s in ("FLOAT", "DOUBLE", "IMA_ADPCM", "ULAW")]
    return Reader(read, change, tuple(seeds))


def stream(scratch) -> Reader:
    """Raw samples; the first four bytes choose rate, channels and format."""
    formats = [*recordings.SAMPLE_FORMATS, "u8"]
    rates = (0, 1, 999, 1000, 8000, 48_000, 1_000_000, 2**31, -1)

    def read(data):
        head = data[:4].ljust(4, b"\0")
        opened = recordings.read_stream(
            io.BytesIO(data[4:]),
            rate=rates[head[0] % len(rates)],
            n_channels=(1, 2, 6, 1024, 0, -1, 2000)[head[1] % 7],
            sample_format=formats[head[2] % len(formats)],
        )
        for _ in opened.blocks:
            pass

    noise = np.random.default_rng(0).standard_normal(60).astype("<f4").tobytes()
    return Reader(read, mutate.of_bytes, (b"\5\0\3\0" + noise, b"\4\1\2\0" + noise))


def archive(scratch) -> Reader:
    """Zip files; nothing may appear outside of the folder they are unpacked into."""
    import shutil

    path, folder = scratch / "a.zip", scratch / "a" / "b"

    def read(data):
        path.write_bytes(data)
        shutil.rmtree(scratch / "a", ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            fetch.extract(path, folder, strip="TOP")
        finally:
            outside = [*scratch.iterdir(), *(scratch / "a").iterdir()]
            assert outside in ([path, scratch / "a", folder], [scratch / "a", path, folder]), (
                outside
            )
            assert not any(file.is_symlink() for file in folder.rglob("*"))

    words = (
        *(b"PK\1\2\x14\0\x14\0\0\0\x0e\0", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6"),
        *(b"../", b"TOP/", b"\\", b"C:", b"/", b"\0"),
    )
    return Reader(read, lambda rng, seed: mutate.of_bytes(rng, seed, words), _archives())


def _archives() -> tuple[bytes, ...]:
    """Stored and packed files, with and without a folder on top."""
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as out:
            out.writestr("TOP/audio/a.wav", b"RIFF" * 30)
            out.writestr("TOP/audio/b.wav", b"x" * 40)
            out.writestr("meta.csv", meta_csv(2))
        seeds.append(file.getvalue())
    return tuple(seeds)


def data_set(scratch) -> Reader:
    """The small JSON files beside a data set and beside unpacked archives."""
    from asc_jax.data.store import dataset

    folder = scratch / "tau22" / str(dataset.Tau22.VERSION)
    folder.mkdir(parents=True)
    (scratch / "archives").mkdir()
    kept = download.Archive("a.zip", "0" * 32, "1")
    names = ("metadata.json", "dataset_info.json", "record")
    paths = [folder / names[0], folder / names[1], scratch / "archives" / "a.zip.json"]
    good = [
        json.dumps({"inputs": {"test": "00"}, "official": ["test"]}).encode(),
        json.dumps({"name": "tau22", "splits": [{"name": "test", "shardLengths": ["1"]}]}).encode(),
        json.dumps({"md5": "0" * 32, "files": {"archives/a.zip.json": 5}}).encode(),
    ]

    def read(data):
        for number, path in enumerate(paths):
            path.write_bytes(data[1:] if data[:1] == bytes([number]) else good[number])
        reader.official_splits(scratch / "tau22")
        dataset.built_inputs(scratch)
        download._is_extracted(scratch, kept)

    def change(rng: Random, seed: bytes) -> bytes:
        return seed[:1] + mutate.of_json(rng, seed[1:])

    return Reader(read, change, tuple(bytes([i]) + text for i, text in enumerate(good)))


def _logits_file(logits: np.ndarray) -> bytes:
    """A file as `asc-jax logits` writes it, of `logits [n_teachers, 4, 10]`."""
    file = io.BytesIO()
    names = [f"audio/{number}.wav" for number in range(4)]
    np.savez_compressed(
        file,
        format=np.array(logits_files.FORMAT),
        filenames=np.array(names),
        classes=np.array(SCENES),
        logits=logits,
        sources=np.array("[]"),
    )
    return file.getvalue()


def _logits_seeds() -> tuple[bytes, ...]:
    """Files of each kind; the first byte says which is corrupted."""
    logits = np.random.default_rng(0).standard_normal((2, 4, 10)).astype(np.float32)
    array = io.BytesIO()
    np.save(array, logits[0])
    index = json.dumps({"filenames": [f"{number}.wav" for number in range(4)]}).encode()
    return b"\0" + _logits_file(logits), b"\1" + array.getvalue(), b"\2" + index


def teacher_logits(scratch) -> Reader:
    """Our file of teachers' logits, an array, or the index of its rows."""
    seeds = _logits_seeds()
    good = {name: seed[1:] for name, seed in zip(KINDS_OF_LOGITS, seeds, strict=True)}

    def read(data):
        for name, content in good.items():
            damaged = data[:1] == bytes([KINDS_OF_LOGITS.index(name)])
            (scratch / name).write_bytes(data[1:] if damaged else content)
        for name in KINDS_OF_LOGITS[:2]:
            logits_files.read_teacher_logits(scratch / name)
        logits_files.read_sources(scratch / KINDS_OF_LOGITS[0])

    def change(rng: Random, seed: bytes) -> bytes:
        words = (b"PK\1\2", b"'descr': '|O'", b"(2,)", b"'<f8'", b"{")
        return seed[:1] + mutate.of_bytes(rng, seed[1:], words)

    return Reader(read, change, seeds)
