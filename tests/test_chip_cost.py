"""Compare what a network and its front end cost on a chip with what is written for one."""

import json
import math
import re
import shutil

import pytest
from exported import Unknown  # noqa: F401 - a config names it
from ml_collections import ConfigDict
from small import small_clips, small_config
from test_quantisation import mini_config, save_mini

from asc_jax.cli import complexity
from asc_jax.complexity import front_end
from asc_jax.operations.graph import INPUT, Operation
from asc_jax.quantisation import chip_cost, run

RAM = 65_536  # of a small chip


@pytest.fixture(scope="module")
def mini():
    return chip_cost.examine(mini_config())


def test_layers_share_the_tables_that_they_share_after_training():
    """Four tables of all response normalisations, two of each, and one of each activation."""
    config = small_config().unlock()
    config.model.update(width=8, grn=True)
    with config.unlocked():
        config.model.activation = "silu"
    cost = chip_cost.examine(config.lock(), measure_code=False)
    assert cost["int8"]["parts"]["tables"] == 256 * (4 + 2 * 6 + 2 + 3 * 6)


def test_int8_is_that_of_the_c_library(mini, tmp_path):
    """A config gives the arena and the constants of a run that is converted."""
    workdir, clips = save_mini(tmp_path / "run"), small_clips(4)
    lines = run.export_int8(workdir, clips, kind="c", out_dir=tmp_path / "out", clips=clips)
    int8, text = mini["int8"], "\n".join(lines)
    assert f"arena: {int8['ram']:,} bytes, the most for {int8['peak_layer']} " in text
    assert f"constants: {int8['flash']:,} bytes" in text
    header = (tmp_path / "out" / "asc_int8" / "asc_model.h").read_text()
    assert re.search(rf"ASC_ARENA_BYTES {int8['ram']}$", header, re.M)
    assert re.search(rf"ASC_INPUT_BYTES {int8['input']}$", header, re.M)
    assert sum(int8["parts"].values()) == int8["flash"]


def test_floating_point_takes_its_bytes_for_every_value(mini):
    """The same results live as at int8, and as many weights as there are with BatchNorm folded."""
    for name, itemsize in (("float16", 2), ("float32", 4)):
        assert mini[name]["ram"] == itemsize * mini["int8"]["ram"]
        assert mini[name]["peak_layer"] == mini["int8"]["peak_layer"]
        assert mini[name]["input"] == itemsize * 32 * 17
    assert mini["float32"]["flash"] == 2 * mini["float16"]["flash"]


def test_a_result_is_needed_from_where_it_is_computed_to_where_it_is_read_last():
    chain = [
        Operation("activation", "a", [INPUT], (6, 4), activation="relu"),
        Operation("transpose", "b", ["a"], (4, 6)),
        Operation("reshape", "flat", ["b"], (24,)),  # moves nothing: it is b
        Operation("slice", "c", ["flat"], (10,)),
        Operation("slice", "logits", ["c"], (3,)),
    ]
    cost = chip_cost.float_cost(chain, (6, 4), 4)
    assert (cost["ram"], cost["peak_layer"], cost["at_peak"]) == (4 * 48, "b", ["a", "b"])
    chain[3].inputs.append("a")  # it has to wait
    cost = chip_cost.float_cost(chain, (6, 4), 4)
    assert (cost["ram"], cost["peak_layer"], cost["at_peak"]) == (4 * 58, "c", ["a", "b", "c"])


def test_linked_network_takes_the_memory_that_is_reported(mini):
    if shutil.which(chip_cost.COMPILER) is None:
        assert mini["code"] is None
        pytest.skip(f"no {chip_cost.COMPILER} here")
    code, int8 = mini["code"], mini["int8"]
    assert code["ram"] == pytest.approx(int8["ram"], rel=0.05)
    assert 0 < code["code"] < 10_000
    assert int8["flash"] < code["constants"] < int8["flash"] + 2_000  # descriptions of the layers


def test_transform_multiplies_as_often_as_split_radix_does():
    """Count for 16 real numbers: those of 8 and twice of 4, 2 complex products, 2 real ones."""
    assert [front_end.fft_macs(n) for n in (2, 4, 8, 16)] == [0, 0, 2, 2 + 8 + 2]
    assert front_end.fft_macs(4096) < 4096 * 12
    assert front_end.fft_macs(1000) == math.ceil(1000 * math.log2(1000))


def test_front_end_is_counted_by_its_rule():
    """5 frames: window, 2 for the transform of 8 samples, powers of 5 frequencies, mel weights."""
    values = {"sample_rate": 80, "n_fft": 8, "win_length": 6, "hop_length": 5, "n_mels": 2}
    values |= {"f_min": 0.0, "f_max": 40.0}
    cost = front_end.examine(20, values)
    n_weights = front_end.n_mel_weights(**values)
    expected = {"pre-emphasis": 0, "window": 5 * 6, "FFT": 5 * 2, "power": 5 * 8}
    assert cost["macs"] == expected | {"mel": 5 * n_weights}
    assert cost["n_macs"] == sum(cost["macs"].values())
    assert cost["n_logarithms"] == 5 * 2
    assert cost["tables"] == {"window": 24, "sines": 12, "mel weights": 4 * n_weights + 8}
    assert cost["ram"] == 4 * (6 + 1 + 8 + 7)
    assert front_end.examine(20, values | {"pre_emphasis": 0.97})["macs"]["pre-emphasis"] == 19


def test_network_for_small_chips_leaves_room_for_its_front_end():
    from configs import small_chip

    config = small_chip.get_config()
    cost = chip_cost.examine(config, measure_code=False)
    int8 = cost["int8"]
    assert int8["input"] == math.prod((64, 64))
    whole = int8["ram"] + int8["input"] + int8["logits"] + cost["front_end"]["ram"]
    assert cost["total"]["ram"] == whole < RAM
    assert cost["total"]["flash"] == int8["flash"] + cost["front_end"]["table_bytes"]


def test_command_shows_it_as_text_and_as_json(mini, capsys):
    options = {"solve": False, "png": None}
    assert complexity.show("mine.py", mini_config(), json_only=False, **options)
    text = capsys.readouterr().out
    int8 = mini["int8"]
    assert re.search(
        rf"^int8 +{int8['flash']:,} +{int8['ram']:,} +544  {int8['peak_layer']}", text, re.M
    )
    assert f"front-end MACs, outside the task's count: {mini['front_end']['n_macs']:,} (" in text
    assert complexity.show("mine.py", mini_config(), json_only=True, **options)
    assert json.loads(capsys.readouterr().out)["chip"] == mini


def test_what_cannot_be_counted_is_said(capsys):
    config = small_config().unlock()
    config.model = ConfigDict({"name": "exported:Unknown", "what": "sort"})
    complexity.show("mine.py", config.lock(), solve=False, json_only=False, png=None)
    text = capsys.readouterr().out
    assert re.search("^int8 is not possible: .*sort", text, re.M)
    assert "front-end flash: window" in text
