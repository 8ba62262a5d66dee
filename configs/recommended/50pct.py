"""The recommended system on the 50 % split: the report's, and impulse responses in training.

    python train.py --config recommended/50pct.py --config.augment.dir.dir=MICIRP

MICIRP is a folder with the wav files of micirp.blogspot.com (docs/augmentation.md). Clips of
device a are convolved with one of them with probability 0.6, in training only: network, cost and
deployed form are those of `splits/50pct.py`. No accuracy on TAU is published for this combination.
Source: our own comparison on synthetic scenes, docs/gains.md, which also says what else was tried.
The augmentation is that of T. Morocutti et al. (EUSIPCO 2023).
"""

import importlib

from ml_collections import ConfigDict


def get_config():
    config = importlib.import_module("configs.splits.50pct").get_config()
    with config.unlocked():
        config.augment.dir = ConfigDict({"name": "device_impulse_response", "dir": "data/micirp"})
        config.augment.dir.update({"p": 0.6, "column": "device", "column_values": "a"})
    return config
