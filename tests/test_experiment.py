"""A config is held against what its parts accept, before anything is compiled."""

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
        ("optim__peak_lr", -1.0, "config.optim.peak_lr must be above 0"),
        ("features__sample_rate", 44_100, "expected 32000"),
        ("features__win_length", 5000, r"in 1 … 4096 \(n_fft\)"),
        ("features__f_max", 20_000.0, "at most 16000 Hz"),
        ("features__f_min", 16_000.0, "below features.f_max"),
        ("augment__max_freq_mask", 33, r"in 0 … 32 \(n_mels\)"),
        ("train__n_epochs", 0, "config.train.n_epochs is 0"),
    ],
)
def test_value_out_of_range_is_named(name, value, expected):
    with pytest.raises(UserError, match=expected):
        experiment.make(small_config(**{name: value}))
