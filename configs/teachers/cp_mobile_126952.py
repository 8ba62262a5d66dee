"""A wide CP-Mobile, on the 100 % split, by the official baseline's recipe.

    python train.py --config teachers/cp_mobile_126952.py

Only the network is theirs: 126,952 parameters and, at the 64 frames that their front end with
pre-emphasis makes, 28,889,088 multiply-accumulates; at 65 frames 31,680,000, over the budget.
Published, with distillation from an ensemble of CP-ResNets and PaSST: 65.81 % (arXiv 2503.11363).
Theirs are stored as 8-bit integers, which `precision.stored` does not have: as a float16 network
it is over the limit of bytes, so that it is a teacher here.
Source: fschmid56/cpjku_dcase23, see `asc_jax.models.cp_mobile`; every other value is in `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_100pct"
    # 64 frames, as pre-emphasis makes them at 500; its key will be features.pre_emphasis.
    config.features.hop_length = 501
    config.model.width_multiplier = 2.3
    config.model.expansion = 3.0
    config.model.grn = True
    with config.unlocked():
        config.model.strides = ((1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1))
    config.budget.role = "teacher"
    return config.lock()
