"""A config is checked by the parts that take its values, before anything is compiled."""

import pytest
from small import small_config

from asc_jax import experiment
from asc_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("precision__stored", "float8", "float32 or bfloat16 or float16"),
        ("precision__compute", "float8", "float32 or bfloat16 or float16"),
        ("model__activation", "swish", "known: relu, relu6, hard_swish"),
        ("model__width", 0, "config.model.width is 0"),
        ("model__expansion", -1.0, "config.model.expansion is -1.0"),
        ("schedule__peak_lr", -1.0, "config.schedule.peak_lr is -1.0, expected above 0"),
        ("features__sample_rate", 16_001, "expected 8000 or 11025 or .* as data sets are stored"),
        ("features__win_length", 5000, r"in 1 … 4096 \(n_fft\)"),
        ("features__f_max", 20_000.0, "at most 16000 Hz"),
        ("features__f_min", 16_000.0, "below features.f_max"),
        ("augment__freq_mask__max_width", 33, r"in 0 … 32 \(n_mels\)"),
        ("train__n_epochs", 0, "config.train.n_epochs is 0"),
        ("train__n_epochs", 10**27, "expected in 1 … 1,000,000"),
        ("data__batch_size", 10**9, "expected in 1 … 65,536"),
        ("schedule__warmup_steps", 10**23, "expected in 0 … "),
        ("schedule__peak_lr", 1e39, r"expected above 0 and at most 1e\+06"),
        ("train__steps_per_call", 10**12, "expected in 1 … 65,536"),
        ("train__n_seeds", 10**8, "expected in 1 … 1,000"),
        ("model__name", "x" * 10**5, r"config.model.name is 'x+\.\.\.x+': unknown; known are "),
        ("model__name", "cp_resnet", "replace the whole section, .* takes widths, kernel_init$"),
        ("loss__name", "hinge", "config.loss.name is 'hinge': unknown; known are focal"),
        ("loss__gamma", -1.0, "config.loss.gamma is -1.0, expected at least 0"),
        ("optim__weight_decay", -1.0, "config.optim.weight_decay is -1.0, expected at least 0"),
        ("augment__time_roll__max_s", 1.0, r"config.augment.time_roll.max_s is 1.0, expected in "),
        ("augment__freq_mixstyle__alpha", 0.0, "freq_mixstyle.alpha is 0.0, expected above 0"),
        ("augment__time_mask__name", "blur", "config.augment.time_mask.name is 'blur': unknown"),
        ("features__n_mels", 10**9, r"expected in 1 … 2049 \(of n_fft\)"),
    ],
)
def test_value_out_of_range_is_named(name, value, expected):
    with pytest.raises(UserError, match=expected):
        experiment.make(small_config(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", 10**20, "config.seed is 1000.*, expected in 0 … 4,611,686,018,427,387,904"),
    ],
)
def test_value_without_a_section_out_of_range_is_named(name, value, expected):
    config = small_config().unlock()
    config[name] = value
    with pytest.raises(UserError, match=expected) as caught:
        experiment.make(config.lock())
    assert len(str(caught.value)) < 300
