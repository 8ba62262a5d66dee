"""A network for a microcontroller: 16 kHz, 64 mel bands, 37 kB of parameters in float16.

    asc-jax train --config small.py

Every value that is not named here is that of `configs/base.py`, which says what each means.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config().unlock()
    config.data.dir = "data/own"
    config.data.train_split = "train"
    config.data.test_split = "test"
    config.data.batch_size = 32

    config.features.sample_rate = 16_000  # Hz, as the clips are stored
    config.features.n_fft = 1024
    config.features.win_length = 800  # 50 ms
    config.features.hop_length = 320  # 20 ms
    config.features.n_mels = 64
    config.features.f_max = 8000.0
    config.augment.freq_mask.max_width = 12  # a fifth of the bands, as in the large network

    config.model.width = 16
    config.loss.gamma = 2.0  # focal loss
    config.schedule.peak_lr = 0.01
    config.schedule.warmup_steps = 50
    config.train.n_epochs = 20
    return config.lock()
