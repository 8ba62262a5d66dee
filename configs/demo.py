"""The report's system on synthetic scenes, minutes on a CPU.

    make demo

Expected: see docs/results.md. What differs from `splits/5pct.py` is
what a run of minutes instead of hours needs: fewer epochs, smaller batches, a shorter warm-up.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.dir = "data/demo"
    config.data.train_split = "train_100pct"
    config.data.batch_size = 32
    config.features.hop_length = 472
    config.loss.gamma = 2.0
    config.schedule.warmup_steps = 100
    config.train.n_epochs = 10
    config.train.eval_every_epochs = 10
    return config
