"""The benchmarks run at toy size, write what they promise, and refuse an unequal peer."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from test_students import NETWORKS, NIGHTLY, golden, variables_of

from asc_jax.models import MODELS
from benchmarks import inputs

ROOT = pathlib.Path(__file__).parent.parent


def start(*args):
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ("i",),
        pytest.param(("e", "i"), marks=pytest.mark.nightly),
        pytest.param(("a", "j", "k"), marks=pytest.mark.nightly),
        pytest.param(("m",), marks=pytest.mark.nightly),
    ],
)
def test_parts_run_and_are_written_down(tmp_path, parts):
    paths = {name: tmp_path / f"times.{name}" for name in ("json", "markdown", "png")}
    outputs = [f"--{name}={path}" for name, path in paths.items()]
    few = ("--toy", "--threads=1", "--contestants=torch", "--seeds=2", "--networks=cnn_gru")
    done = start(*parts, *few, *outputs)
    assert done.returncode == 0, done.stderr
    whole = json.loads(paths["json"].read_text())
    assert {row["part"] for row in whole["rows"]} == set(parts)
    for row in whole["rows"]:
        ours = row["results"]["ours"]
        assert 0 < ours["q1"] <= ours["median"] <= ours["q3"]
    assert whole["machine"]["threads"] == 1
    assert "× ours" in paths["markdown"].read_text()
    assert paths["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("cnn_gru", "cp_resnet") else NIGHTLY) for n in NETWORKS],
)
def test_twin_computes_what_the_authors_network_does(name):
    torch = pytest.importorskip("torch")
    from benchmarks.peer_network import make_twin_of
    from benchmarks.reference import named_as_twin

    network, arrays = NETWORKS[name], golden(name)
    kind = next(k for k, cls in MODELS.items() if type(network) is cls)
    twin = make_twin_of(kind, attributes_of(network), n_mels=arrays["log_mel"].shape[2])
    tensors = named_as_twin(kind, variables_of(name))
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=True)
    log_mel = torch.from_numpy(arrays["log_mel"]).double()
    with torch.no_grad():
        logits = twin.double().eval()(log_mel).numpy()
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-8, rtol=0)


def attributes_of(network):
    """Return the attributes that a config may hold."""
    fields = {field.name for field in dataclasses.fields(network)}
    left_out = {"parent", "name", "dtype", "axis_name", "n_classes"}
    return {name: getattr(network, name) for name in fields - left_out}


def test_network_that_no_part_knows_is_named():
    done = start("m", "--networks=dense")
    assert done.returncode == 2
    assert "unknown network 'dense'; known to part m: tf_sepnet, " in done.stderr


def test_wrong_command_line_is_named():
    done = start("z")
    assert done.returncode == 2
    assert "unknown part 'z'; known: a (" in done.stderr


@pytest.mark.parametrize("theirs", [[0.0, 2e-4], [0.0, np.nan]])
def test_contestant_that_computes_something_else_is_refused(theirs):
    with pytest.raises(inputs.Mismatch, match="its logits differ from ours by"):
        inputs.require_equal("logits", np.zeros(2), np.array(theirs))
    inputs.require_equal("logits", np.zeros(2), np.array([0.0, 5e-5]))
