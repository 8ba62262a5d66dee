"""The report's system on the 25 % split.

    python train.py --config splits/25pct.py

Published: 53.12 % macro average accuracy on the development test list, number of runs
not stated.
Source: W. Gao and I. Lee (UniSA), DCASE 2024 Task 1 technical report. It publishes no architecture:
the network is assumed to be the official baseline's. Epochs, optimiser, schedule and augmentation,
which it does not state either, have the baseline's values, from `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_25pct"
    config.data.batch_size = 78
    config.features.hop_length = 472
    config.loss.gamma = 2.0
    config.schedule.peak_lr = 0.005
    return config
