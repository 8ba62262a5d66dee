"""The official baseline on the 5 % split.

    python train.py --config baseline/5pct.py

Published: 42.40 % macro average accuracy on the development test list, mean of 5 runs.
Source: CPJKU, dcase2024_task1_baseline; every value but the split is in `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_5pct"
    return config
