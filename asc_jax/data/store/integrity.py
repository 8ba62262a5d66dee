"""Record what a built data set consists of, and check that it still does.

`integrity.json` lies beside the shards: clips, files and their sizes, the code that built them,
how the stored clips are made, and a hash of itself. `<split>.crc32` holds a checksum of every
stored clip, which is checked each time the clip is read: the check of a whole data set is one
pass over it (`prepare_data --check`), and opening one costs next to nothing.
"""

import hashlib
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asc_jax.data.resampling import RESAMPLER, SAMPLE_RATE, STORED_RATES
from asc_jax.machine import files
from asc_jax.machine.version import code_version

NAME = "integrity.json"
SHARD = ".array_record-"  # in the name of every shard
CLIPS_ARE = {"dtype": "float32", "resampler": RESAMPLER}


def checksum(record: bytes) -> int:
    """Return the CRC-32 of a serialised clip: sound, label and names."""
    return zlib.crc32(record)


def record(
    folder: Path,
    checksums: Mapping[str, Sequence[int]],
    sample_rate: int = SAMPLE_RATE,
    n_samples: int | None = None,
) -> None:
    """Write what `check` compares the data set with.

    Args:
      folder: of a data set just built.
      checksums: split name → the checksum of each of its clips, in stored order.
      sample_rate: of the clips, Hz.
      n_samples: of each clip; None: those of a second.
    """
    n_samples = sample_rate if n_samples is None else n_samples
    for split, sums in checksums.items():
        files.write_atomically(_table(folder, split), np.asarray(sums, "<u4").tobytes())
    content = {
        "clips_are": {"sample_rate": sample_rate, "n_samples": n_samples, **CLIPS_ARE},
        "made_with": {"code": code_version(), "python": platform.python_version()},
        "n_clips": {split: len(sums) for split, sums in checksums.items()},
        "files": {path.name: _facts(path) for path in sorted(folder.iterdir())},
    }
    files.write_atomically(folder / NAME, json.dumps(content | {"sha256": _sum(content)}, indent=1))


def check(folder: Path) -> dict:
    """Compare a data set with its own record; the clips are left to `Reader.read`.

    Args:
      folder: that holds its files.

    Returns:
      What was recorded.

    Raises:
      ValueError: something is missing, of another size, of other content or of another
        version than this program reads; says what.
      OSError: a file cannot be read.
    """
    try:
        content = files.parse_json((folder / NAME).read_bytes())
        intact = content.pop("sha256") == _sum(content)
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (KeyError, ValueError) as error:
        raise ValueError(f"{NAME} cannot be read") from error
    if not intact:
        raise ValueError(f"{NAME} was changed")
    clips_are = content["clips_are"]
    rate, n_samples = clips_are.get("sample_rate"), clips_are.get("n_samples")
    expected = {
        "sample_rate": rate if rate in STORED_RATES else SAMPLE_RATE,
        "n_samples": n_samples if isinstance(n_samples, int) and n_samples > 0 else rate,
    }
    for name, value in {**expected, **CLIPS_ARE}.items():
        found = clips_are.get(name)
        if found != value:
            raise ValueError(f"made by other code: {name} is {found}, this version has {value}")
    for name, facts in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != facts["n_bytes"]:
            n_bytes = path.stat().st_size
            raise ValueError(f"{name} has {n_bytes:,} bytes, it had {facts['n_bytes']:,}")
        if facts != _facts(path):
            raise ValueError(f"{name} was changed")
    return content


def read_checksums(folder: Path, split: str) -> np.ndarray:
    """Read the checksums of a split's clips, `[n_clips]` uint32."""
    return np.frombuffer(_table(folder, split).read_bytes(), "<u4")


def _table(folder: Path, split: str) -> Path:
    return folder / f"{split}.crc32"


def _facts(path: Path) -> dict:
    """Return the size, and a hash where that is quick; a shard's clips have checksums."""
    facts = {"n_bytes": path.stat().st_size}
    if SHARD not in path.name:
        facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


def _sum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
