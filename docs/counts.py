"""Count what costs a minute: sizes of networks and formats, and times at recorded rates."""

from asc_jax.cli.complexity import as_program, as_text
from asc_jax.cli.config_flag import make_configs_importable, read_config
from asc_jax.complexity import budget
from asc_jax.experiment import with_labels
from asc_jax.models.from_config import log_mel_shape
from asc_jax.operations import lower
from asc_jax.quantisation import chip_cost
from docs import figures

REPORT, WIDE = "splits/5pct.py", "teachers/cp_mobile_126952.py"
ZOO = {
    REPORT: "CP-Mobile, the report's",
    "baseline/5pct.py": "CP-Mobile, the baseline's",
    "small_chip.py": "CP-Mobile for small chips",
    "students/cp_mobile_12310.py": "CP-Mobile with GRN",
    "students/cp_mobile_half.py": "CP-Mobile with GRN",
    "students/cp_mobile_61160.py": "CP-Mobile with GRN",
    WIDE: "CP-Mobile with GRN",
    "students/rep_mobile.py": "Rep-Mobile with GRN",
    "students/cnn_gru.py": "CNN-GRU",
    "tf_sepnet_40.py": "TF-SepNet-40",
    "teachers/tf_sepnet_64.py": "TF-SepNet-64",
    "teachers/cp_resnet.py": "CP-ResNet",
}


def _config(name: str, *changes: str):
    make_configs_importable()
    return with_labels(read_config(name, [f"--config.{change}" for change in changes]))


def _totals(name: str, *changes: str) -> dict:
    return budget.examine(_config(name, *changes))[1]


def zoo() -> dict:
    """Return a table of the networks, and the values of the report's."""
    rows = []
    for name, network in ZOO.items():
        total, shape = _totals(name), log_mel_shape(_config(name))
        dtype = total["stored_dtype"]
        over = "within" if total["within_budget"] else "over"
        cost = [total["n_params"], total["macs"], total["bytes"], dtype, over]
        rows.append([f"`{name}`", network, f"{shape[0]} × {shape[1]}", *cost])
    columns = ["config", "network", "log-mel", "parameters", "MACs", "bytes", "stored as", "budget"]
    total = _totals(REPORT)
    values = {key: value for key, value in total.items() if type(value) is int}
    values["norms"] = total["macs_torchinfo"] - total["macs"]
    return {"columns": columns, "rows": rows, "values": values}


def layers() -> dict:
    """Return the beginning and the end of what `asc-jax complexity` prints."""
    config = _config(REPORT)
    lines = as_text(REPORT, *budget.examine(config), chip_cost.examine(config)).splitlines()
    first = {line.split()[0]: line for line in lines if line.strip()}
    kept = [first[word] for word in ("layer", "stem1", "stem2")]
    command = f"asc-jax complexity --config {REPORT}"
    return {"text": [command, "", *kept, "…", first["total"], first["limit"]]}


def frames() -> dict:
    """Return the sum by numbers of frames, two of which always cost the same."""
    row = ["MACs, as torchinfo prints them"]
    pairs = ((63, 64), (65, 66), (67, 68), (69, 70))
    for pair in pairs:
        hops = [32_000 // (n - 1) for n in pair]
        one, other = (_totals(REPORT, f"features.hop_length={h}")["macs_torchinfo"] for h in hops)
        assert one == other, f"{pair} frames: {one} and {other}"
        row.append(one)
    return {"columns": ["frames", *(f"{a}–{b}" for a, b in pairs)], "rows": [row]}


def conventions() -> dict:
    """Return the sum without and with the parameters of BatchNorm, at two numbers of frames."""
    hops = {65: 500, 68: 472}
    totals = [_totals(REPORT, f"features.hop_length={hop}") for hop in hops.values()]
    exact = ["MACs, exact: products of convolutions and matrices", *(t["macs"] for t in totals)]
    others = ["as torchinfo and NeSsi print them", *(t["macs_torchinfo"] for t in totals)]
    columns = ["figure", *(f"at {n} frames" for n in hops)]
    return {"columns": columns, "rows": [exact, others]}


def int8_bytes() -> dict:
    """Return the bytes at int8, as the rule counts them and with biases of four bytes."""
    rows = []
    for label, name, *changes in (
        (f"`{REPORT}`", REPORT),
        (f"`{WIDE}`", WIDE),
        ("the same without pre-emphasis, so with 65 frames", WIDE, "features.pre_emphasis=0"),
        ("the same with `model.expansion=2.9`, 64 frames", WIDE, "model.expansion=2.9"),
    ):
        config = _config(name, "precision.stored=int8", *changes)
        chip = chip_cost.examine(config, measure_code=False)
        total = as_program(budget.examine(config)[1], chip)
        over = "" if total["within_budget"] else ": over"
        macs = f"{total['macs']:,}{over}"
        rows.append([label, total["n_params"], total["bytes_int8"], macs])
    columns = ["CP-Mobile, int8", "parameters = bytes by the rule", "bytes with biases of 4"]
    values = {"over": rows[1][2] - config.budget.max_bytes}
    return {"columns": [*columns, "MACs"], "rows": rows, "values": values}


def chip() -> dict:
    """Return what two networks take on a chip, and the sizes of the first one's library in C."""
    names = "splits/100pct.py", "small_chip.py"
    costs = [chip_cost.examine(_config(name)) for name in names]
    totals = [_totals(name) for name in names]
    codes = [cost["code"] for cost in costs]
    compiler = codes[0]["compiler"] if codes[0] else "no compiler here"
    linked = [f"{c['flash']:,} ({c['code']:,})" if c else "not measured" for c in codes]
    int8, front = ([cost[part] for cost in costs] for part in ("int8", "front_end"))
    rows = [
        ["parameters of the network", *(t["n_params"] for t in totals)],
        ["its MACs", *(t["macs"] for t in totals)],
        ["MACs of the front end", *(f["n_macs"] for f in front)],
        ["flash at int8: weights, biases, multipliers and shifts", *(i["flash"] for i in int8)],
        [f"the same with code, linked for Cortex-M4 ({compiler}); of it code", *linked],
        ["flash, tables of the front end", *(f["table_bytes"] for f in front)],
        ["RAM at int8: arena", *(i["ram"] for i in int8)],
        ["the log-mel", *(i["input"] for i in int8)],
        ["the front end", *(f["ram"] for f in front)],
        ["all of it, logits included", *(cost["total"]["ram"] for cost in costs)],
    ]
    parts = int8[0]["parts"]
    values = {"int8": int8[0]["flash"], "multipliers": parts["multipliers and shifts"]}
    values |= {"arena": int8[0]["ram"], "weights": parts["weights"] + parts["biases"]}
    values |= costs[0]["total"]
    columns = ["bytes", *(f"`{n}`" for n in names)]
    for key, row in (("tables", 5), ("log_mel", 7), ("stream", 8)):
        values |= {key: [rows[row][0], columns[1]], f"small_{key}": [rows[row][0], columns[2]]}
    return {"columns": columns, "rows": rows, "values": values}


def int8_networks() -> dict:
    """Return what the networks that `chip` leaves out take at int8, with their front ends."""
    rows = []
    for label, name, *changes in (
        ("`small_chip.py` with 32 channels", "small_chip.py", "model.width=32"),
        (f"`{WIDE}`", WIDE),
        ("`tf_sepnet_40.py`", "tf_sepnet_40.py"),
        ("`students/cnn_gru.py`", "students/cnn_gru.py"),
    ):
        config = _config(name, *changes)
        cost = chip_cost.examine(config, measure_code=False)
        int8, front, parts = cost["int8"], cost["front_end"], cost["int8"]["parts"]
        numbers = sum(parts[key] for key in ("weights", "biases", "constants"))
        network = [numbers, parts["multipliers and shifts"], parts["tables"], int8["ram"]]
        operations = len(lower.lower(chip_cost.read(config)))
        rows.append([label, operations, *network, front["table_bytes"], front["ram"]])
    columns = ["bytes at int8", "number of operations"]
    columns += ["weights, biases, constants", "multipliers and shifts", "tables"]
    columns += ["arena", "front end: tables", "and RAM"]
    gru = "`students/cnn_gru.py`"
    values = {
        "gru_operations": [gru, "number of operations"],
        "gru_bytes": [gru, "weights, biases, constants"],
        "gru_tables": [gru, "front end: tables"],
        "gru_ram": [gru, "and RAM"],
        "wide_arena": [f"`{WIDE}`", "arena"],
        "sepnet_arena": ["`tf_sepnet_40.py`", "arena"],
        "small_32_arena": ["`small_chip.py` with 32 channels", "arena"],
    }
    return {"columns": columns, "rows": rows, "values": values}


TAU = {"5 %": 6980, "10 %": 13_960, "25 %": 34_900, "50 %": 69_800, "100 %": 139_620}
TAU_TEST, TAU_ALL, TAU_EVALUATION = 29_680, 230_350, 135_730  # clips
WAV, STORED = 44 + 3 * 44_100, 4 * 32_000  # bytes of a clip


def tau_disk() -> dict:
    """Return what TAU takes on a disk, in GB, from the numbers of clips and their formats."""
    wavs, built = TAU_ALL * WAV, (sum(TAU.values()) + TAU_TEST) * STORED
    small = (TAU["5 %"] + TAU_TEST) * STORED
    evaluation = TAU_EVALUATION * WAV, TAU_EVALUATION * STORED
    rows = [
        ["the unpacked wav files", f"{1e-9 * wavs:.1f} GB"],
        ["the built data set, all training splits and the test split", f"{1e-9 * built:.1f} GB"],
        ["of these, the 5 % split and the test split alone", f"{1e-9 * small:.1f} GB"],
        [
            "the evaluation set, for a submission: wav files and built",
            " + ".join(f"{1e-9 * each:.1f}" for each in evaluation) + " GB",
        ],
    ]
    values = {"all": round(1e-9 * (wavs + built))}
    values["with_evaluation"] = round(1e-9 * (wavs + built + sum(evaluation)))
    about = "Computed from the numbers of clips and the bytes of one"
    return {"about": about, "columns": ["what", "disk"], "rows": rows, "values": values}


def tau_times() -> dict:
    """Return how long runs on TAU take at the recorded rates: 150 epochs without evaluation."""
    cpu = _rate("cpu_training.from_waveform")
    gpu = _rate("gpu_training.from_waveform"), _rate("gpu_run.whole")
    rows = []
    for split, clips in TAU.items():
        hours = 150 * clips / cpu / 3600
        minutes = [f"{150 * clips / rate / 60:.0f}" for rate in gpu]
        times = f"{hours:.1f} h", " to ".join(dict.fromkeys(minutes)) + " min"
        rows.append([split, clips, f"{1e-9 * STORED * clips:.1f} GB", *times])
    rows.append(["test", TAU_TEST, f"{1e-9 * STORED * TAU_TEST:.1f} GB", "", ""])
    columns = ["split", "training clips", "built size", "2 CPU cores", "H100"]
    clips = 2 * 3 * 150 * sum(TAU.values())  # systems, seeds, epochs
    values = {
        "size_5": f"{1e-9 * STORED * TAU['5 %']:.1f}",
        "clips": f"{1e-6 * clips:.0f}",
        "cpu": f"{clips / cpu / 3600:.0f}",
        "gpu": " to ".join(f"{clips / rate / 3600:.1f}" for rate in gpu),
    }
    about = "Computed from the numbers of clips and the recorded rates"
    return {"about": about, "columns": columns, "rows": rows, "values": values}


def _rate(name: str) -> float:
    return float(figures.value(*name.split(".")).replace(",", ""))


def float_arena() -> dict:
    """Return the arena of the library in C in float32, of three networks."""
    names = "students/cp_mobile_12310.py", "tf_sepnet_40.py", "students/cnn_gru.py"
    costs = (chip_cost.examine(_config(name), measure_code=False) for name in names)
    rows = [[f"`{n}`", c["float32"]["ram"]] for n, c in zip(names, costs, strict=True)]
    return {"columns": ["network", "arena, float32, bytes"], "rows": rows}


def roofline() -> dict:
    """Return multiply-accumulates and bytes of a training step by block."""
    from benchmarks import inputs, roofline

    together = {"stem1": "two stems", "stem2": "two stems", "reduce_mean": "head"}
    sums: dict[str, list[int]] = {}
    for layer in roofline.layers(inputs.make_config(inputs.SIZES["full"])):
        block = layer.name.partition("/")[0]
        row = sums.setdefault(together.get(block, block), [0, 0])
        row[:] = row[0] + layer.macs, row[1] + layer.n_bytes
    sums["all"] = [sum(column) for column in zip(*sums.values(), strict=True)]
    columns = ["layer", "MACs", "bytes of a training step"]
    rows = [[name, *both] for name, both in sums.items()]
    return {"columns": columns, "rows": rows, "values": {"bytes": ["all", columns[-1]]}}


RECORDS = {
    make.__name__: make
    for make in (
        zoo,
        layers,
        frames,
        conventions,
        int8_bytes,
        chip,
        int8_networks,
        float_arena,
        tau_disk,
        tau_times,
        roofline,
    )
}
