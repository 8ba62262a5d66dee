"""PyTorch's files: what is read, what is refused, and that no code of theirs runs."""

import argparse
import collections
import os
import pathlib
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from asc_jax.errors import UserError
from asc_jax.pytorch.files import read, read_state_dict, write_state_dict

torch = pytest.importorskip("torch")
DTYPES = ["float32", "float16", "bfloat16", "float64"]


class Malicious:
    """Unpickled in the ordinary way, it calls `function(argument)`."""

    def __init__(self, function, argument):
        self.reduced = function, (argument,)

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


def refusal(path, reader=read):
    """The message, of one line, of a file that is refused."""
    with pytest.raises(UserError) as error:
        reader(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def save_whole(path):
    torch.save({"a.weight": torch.arange(5000.0)}, path)
    return path.read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_float_is_read_to_the_bit(path, dtype, zipped):
    tensor = torch.linspace(-3, 70_000, 7, dtype=torch.float64).to(getattr(torch, dtype))
    content = {"a": tensor, "n": torch.tensor(5)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    arrays = read_state_dict(path)
    assert arrays["a"].dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(arrays["a"].astype(np.float64), tensor.double().numpy())
    assert (arrays["n"].shape, arrays["n"].dtype, int(arrays["n"])) == ((), np.int64, 5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_what_is_written_pytorch_reads(tmp_path, dtype):
    path = tmp_path / "new" / "model.pt"
    arrays = {"b": np.arange(6).reshape(2, 3).astype(dtype).T, "a": np.array(3)}
    write_state_dict(path, arrays)
    tensors = torch.load(path, weights_only=True)
    assert list(tensors) == ["b", "a"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
        assert tensor.numpy().dtype == arrays[name].dtype
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_parameters_and_gradients_are_plain_arrays(path):
    torch.save(torch.nn.Linear(2, 3).state_dict(keep_vars=True), path)
    assert read_state_dict(path)["weight"].shape == (3, 2)


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_lightning_checkpoint_tells_its_hyper_parameters(path, kind):
    content = {
        "state_dict": collections.OrderedDict({"model.a": torch.ones(2)}),
        "hyper_parameters": kind(hop_length=500, name="x"),
        "epoch": 3,
        "optimizer_states": [{"state": {0: torch.zeros(2)}}],
    }
    torch.save(content, path)
    file = read(path)
    assert list(file.tensors) == ["model.a", "optimizer_states/0/state/0"]
    assert file.hyper_parameters == {"hop_length": 500, "name": "x"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "named"), [(os.mkdir, "posix.mkdir"), (os.system, "posix.system"), (exec, "exec")]
)
def test_code_in_a_file_is_refused_and_does_not_run(path, function, named, zipped):
    mark = path.with_name("it-ran")
    argument = {
        "mkdir": f"{mark}",
        "system": f"mkdir {mark}",
        "exec": f"import os; os.mkdir('{mark}')",
    }
    content = {
        "state_dict": {"a": torch.ones(2)},
        "callbacks": Malicious(function, argument[function.__name__]),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert f"asks for {named}, which could run code; nothing was run" in message
    assert "torch.save(model.state_dict()" in message
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the same file does run it where nobody forbids it"


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_bare_pickle_is_refused_and_does_not_run(path, protocol):
    mark = path.with_name("it-ran")
    path.write_bytes(pickle.dumps(Malicious(os.mkdir, str(mark)), protocol=protocol))
    refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pathlib.PosixPath("/x/y"), pathlib.PurePosixPath("/x/y")),
        (np.float64(3.5), 3.5),
        (np.float32(0.25), 0.25),
        (np.int64(-7), -7),
        (np.bool_(True), True),
    ],
)
def test_paths_and_numbers_among_the_hyper_parameters_are_read(path, value, expected):
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"x": value}}, path)
    assert read(path).hyper_parameters == {"x": expected}


def test_numpy_scalar_that_hides_an_object_is_not_unpickled(path):
    value = np.array(["x"], object)[0:1].astype("S1")[0]
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"x": value}}, path)
    assert "is cut short, damaged or not a file of PyTorch's" in refusal(path)


@pytest.mark.parametrize("value", [torch.nn.ReLU(), collections.deque([1]), range(3)])
def test_harmless_objects_are_named_and_the_way_out_told(path, value):
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"x": value}}, path)
    message = refusal(path)
    assert "asks for " in message
    assert "weights_only=False)['state_dict'], 'weights.pt')" in message
    assert "save the weights alone: torch.save(model.state_dict()" in message


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, 0.9999])
def test_cut_short_file_is_refused(path, share):
    whole = save_whole(path)
    path.write_bytes(whole[: int(len(whole) * share)])
    n_bytes = path.stat().st_size
    assert f"is cut short: its end is missing after {n_bytes:,} bytes; copy it" in refusal(path)


def test_spoilt_file_is_refused(path):
    whole = save_whole(path)
    start = whole.index(b"data.pkl") + 64
    path.write_bytes(whole[:start] + bytes(32) + whole[start + 32 :])
    assert "is cut short, damaged or not a file of PyTorch's: copy it again" in refusal(path)


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_flipped_byte_among_the_values_is_refused(path, position):
    whole = bytearray(save_whole(path))
    whole[int(len(whole) * position)] ^= 0x40
    path.write_bytes(whole)
    torch.load(path, weights_only=True)  # PyTorch does not look
    assert "is cut short, damaged or not a file of PyTorch's: copy it again" in refusal(path)


def test_file_without_checksums_is_read(path):
    torch.serialization.set_crc32_options(False)
    try:
        save_whole(path)
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read_state_dict(path)["a.weight"], np.arange(5000.0))


@pytest.mark.parametrize("value", [["hop_length"], "abc", 3, torch.ones(2)])
def test_hyper_parameters_without_names_are_refused(path, value):
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": value}, path)
    expected = f"hyper_parameters is of type {type(value).__name__}, expected values by name"
    assert expected in refusal(path)


@pytest.mark.parametrize("content", [b"no zip, no pickle\n" * 9, b"\x80"])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    assert "not a file of PyTorch's" in refusal(path)


def test_empty_missing_and_unreadable_files_are_told_apart(path):
    path.touch()
    assert refusal(path).endswith("is empty: copy it again")
    assert "No such file or directory" in refusal(path.with_name("missing.pt"))
    assert "is a folder, expected one file" in refusal(path.parent)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(2)], "holds a list, expected a state dict"),
        (torch.ones(2), "holds a Tensor, expected a state dict"),
        ({}, "holds nothing, expected"),
        ({"epoch": 3}, "holds 1 values without a tensor, expected"),
        ({"a": torch.eye(2).to_sparse()}, "a is a torch.float32 tensor that cannot be read"),
        (
            {"a": torch.ones(2).to(torch.float8_e4m3fn)},
            "a is a torch.float8_e4m3fn tensor that cannot be read, expected float32",
        ),
    ],
)
def test_other_content_is_refused(path, content, expected):
    torch.save(content, path)
    assert expected in refusal(path, read_state_dict)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    write_state_dict(path, {"a": np.ones(2)})
    before = path.read_bytes()

    def fail(tensors, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match="cannot write .*model.pt: No space left on device"):
        write_state_dict(path, {"a": np.zeros(2)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        write_state_dict(path / "below.pt", {"a": np.zeros(2)})
