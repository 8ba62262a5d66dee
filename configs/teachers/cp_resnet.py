"""CP-ResNet, a teacher, on the 100 % split, by the official baseline's recipe.

    python train.py --config teachers/cp_resnet.py

Network and hop are theirs: 127,684 parameters ("128 K") and, at 43 frames, 28,839,120
multiply-accumulates. No accuracy is published for it alone: CP-Mobiles were distilled from it and
others.
Source: fschmid56/cpjku_dcase23, see `asc_jax.models.cp_resnet`; every other value is in `base.py`.
"""

import ml_collections

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_100pct"
    config.features.hop_length = 750
    config.model = ml_collections.ConfigDict({"name": "cp_resnet", "widths": (32, 64, 92)})
    config.model.kernel_init = "kaiming_fan_in"
    config.budget.role = "teacher"
    return config.lock()
