"""The small CP-Mobile of 2023, on the 100 % split, by the official baseline's recipe.

    python train.py --config students/cp_mobile_12310.py

Only the network is theirs: 12,310 parameters and 4,292,864 multiply-accumulates (4.35 million
published). Published, with knowledge distillation: 58.7 % on the evaluation set of DCASE 2023.
Source: F. Schmid, T. Morocutti et al., see `asc_jax.models.cp_mobile`, and fschmid56/cpjku_dcase23;
every other value is in `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_100pct"
    config.model.width = 8
    config.model.width_multiplier = 2.8
    config.model.expansion = 2.2
    config.model.grn = True
    return config.lock()
