"""A front end and a CP-Mobile for small chips: 16 kHz, 64 mel bands, 64 frames.

    asc-jax prepare-data --tau_dir TAU --data_dir data/tau22_16k --sample_rate 16000
    asc-jax train --config small_chip.py

At int8 its results, the log-mel that it reads and the front end's frame together fit into less than
64 kB of RAM; docs/quantisation.md has the figures, and its accuracy. The loss is the report's, and
the frequency mask takes the same fraction of the bands; every other value of the recipe is in
`base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.dir = "data/tau22_16k"
    config.features.sample_rate = 16_000
    config.features.n_fft = 1024
    config.features.win_length = 1024
    config.features.hop_length = 252
    config.features.n_mels = 64
    config.features.f_max = 8_000.0
    config.augment.freq_mask.max_width = 12
    config.model.width = 24
    config.loss.gamma = 2.0
    return config
