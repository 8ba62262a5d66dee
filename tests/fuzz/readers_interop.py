"""Readers of other frameworks' files and of exported ones."""

import io
import pickle
from random import Random

import numpy as np

from asc_jax.export import c_header as c_file
from asc_jax.pytorch import weights
from asc_jax.pytorch.parity.table import golden_reference

from . import mutate
from .judge import Reader

SIZES = {
    "stem": 8, "stage1": 32, "stage2": 56, "stage3": 104, "inside1": 64, "inside2": 120,
    "n_classes": 10,
}  # fmt: skip


class Spy:
    """Runs code when it is unpickled: the code must never run."""

    ran = False

    def __reduce__(self):
        return _run, ()


def _run():
    Spy.ran = True
    return {}


def state_dict(dtype=np.float32) -> dict[str, np.ndarray]:
    """Zeros for every tensor of the baseline's network."""
    return {
        t.name: np.zeros([SIZES.get(n, n) for n in t.shape], dtype)
        for t in weights.layout(grn=False)
    }


def torch_file(scratch) -> Reader:
    """What `torch.save` writes, old format and new, and pickles that want to run code."""
    from asc_jax.pytorch import files as torch_files

    path = scratch / "x.pt"

    def read(data):
        path.write_bytes(data)
        Spy.ran = False
        try:
            torch_files.read(path).arrays()
        finally:
            assert not Spy.ran, "code of a pickle was run"

    words = (
        *(b"cposix\nsystem\n", b"(S'true'\ntR.", b"c__builtin__\neval\n", b"\x80\x02", b"PK\3\4"),
        *(b"ctorch\n_utils\n", b"R", b".", b"Q", b"\x8c\x06torch.", b"data.pkl", b"\x94\x93"),
    )
    return Reader(read, lambda rng, seed: mutate.of_bytes(rng, seed, words), _torch_files())


def _torch_files() -> tuple[bytes, ...]:
    import torch as pytorch

    tensors = {"a.weight": pytorch.ones(2, 3), "a.bias": pytorch.zeros(2, dtype=pytorch.bfloat16)}
    whole = {"state_dict": tensors, "hyper_parameters": {"n_mels": 256, "name": "x"}, "epoch": 3}
    seeds = []
    for content in (tensors, whole):
        for new in (True, False):
            file = io.BytesIO()
            pytorch.save(content, file, _use_new_zipfile_serialization=new)
            seeds.append(file.getvalue())
    return tuple(seeds)


def hostile_files() -> tuple[bytes, ...]:
    """Files that run `Spy` where pickles are trusted."""
    import torch as pytorch

    hostile = [pickle.dumps(Spy(), protocol=p) for p in range(6)]
    for new in (True, False):
        file = io.BytesIO()
        pytorch.save({"a": Spy()}, file, _use_new_zipfile_serialization=new)
        hostile.append(file.getvalue())
    return tuple(hostile)


def torch_names(scratch) -> Reader:
    """A state dict in memory, whose names, shapes, types and values are damaged."""
    good = state_dict()
    names = [*good]
    odd_shapes = ((), (0,), (1,), (3, 3), (1, 1, 1, 1), (8, 1, 3, 3), (2**20,), (0, 0, 0, 0))
    dtypes = ("f2", "f8", "i4", "?", "c8", "U1")

    def read(data):
        tensors = dict(good)
        for at in range(0, len(data) - 2, 3):
            name, kind, what = names[data[at] % len(names)], data[at + 1] % 7, data[at + 2]
            if kind == 0:
                tensors.pop(name, None)
            elif kind == 1:
                tensors[("model." + name, name + "x", "", "\n\0", "mel.0.kernel")[what % 5]] = good[
                    name
                ]
            elif kind == 2:
                tensors[name] = np.zeros(odd_shapes[what % len(odd_shapes)], np.float32)
            elif kind == 3:
                tensors[name] = good[name].astype(dtypes[what % len(dtypes)])
            elif kind == 4:
                tensors[name] = good[name] + np.float32((np.nan, np.inf, -1, 1e30)[what % 4])
            elif kind == 5:
                counter = weights.counter_names()[what % 21]
                tensors[counter] = np.asarray((0, -1, 2**60, 1.5, np.nan)[what % 5])
        weights.from_torch(tensors)
        weights.infer_config(tensors)
        weights.read_counters(tensors)

    return Reader(read, lambda rng, seed: rng.randbytes(rng.randrange(1, 13)), (b"",))


HEADER = b"""#define ASC_N_FFT 8
#define ASC_N_MELS 4
#define ASC_N_FRAMES 3
static const float ASC_WINDOW[3] = {
    0.25f, 0.75f, 0.25f,
};
static const int16_t ASC_MEL_BAND[2] = {
    0, 1,
};
static const struct asc_layer ASC_LAYERS[ASC_N_LAYERS] = {
    {0, -1, -1, 2, 2, 2, 3, 3, 2, 2, 1, 1, 1, 1, 0}, /* stem1 */
    {5, 0, 0, 2, 2, 2, 1, 1, 1, 1, 0, 0, 1, 0, 18}, /* grn */
    {1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 0, 0, 1, 0, -1}, /* mean */
};
static const uint16_t ASC_VALUES[20] = {
    15360, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
    11, 12, 13, 14, 15, 16, 17, 65535,
};
"""


def c_header(scratch) -> Reader:
    """The text of a header that was exported to C."""
    return Reader(lambda data: c_file.load({c_file.STEM: data}), mutate.of_bytes, (HEADER,))


def arrays(scratch) -> Reader:
    """A file of reference arrays."""
    file = io.BytesIO()
    np.savez(file, a=np.arange(4.0), b=np.array(["x"]))
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(40.0))
    hostile = io.BytesIO()
    np.savez(hostile, a=np.array([Spy()], dtype=object))
    path = scratch / "x.npz"

    def read(data):
        path.write_bytes(data)
        Spy.ran = False
        try:
            golden_reference(scratch)("x")
        finally:
            assert not Spy.ran, "code of a pickle was run"

    def change(rng: Random, seed: bytes) -> bytes:
        if not rng.randrange(8):
            seed = hostile.getvalue()
        return mutate.of_bytes(rng, seed, (b"PK\1\2", b"'descr': '|O'", b"(2,)", b"'<f8'", b"{"))

    return Reader(read, change, (file.getvalue(), packed.getvalue()))
