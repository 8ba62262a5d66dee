"""TF-SepNet-64, on the 100 % split, by the official baseline's recipe.

    python train.py --config teachers/tf_sepnet_64.py

Only the network and its 512 mel bands are theirs: 126,858 parameters and, at the 64 frames that
their front end with pre-emphasis makes, 29,413,888 multiply-accumulates (29.42 million published);
at 65 frames 30,734,848, over the budget. Published, distilled from BEATs: 62.1 % on the evaluation
set of DCASE 2024 at 100 %. Theirs are stored as 8-bit integers, which `precision.stored` does not
have: as a float16 network it is over the limit of bytes, so that it is a teacher here.
Source: Y. Cai et al., see `asc_jax.models.tf_sepnet`; every other value is in `base.py`.
"""

import ml_collections

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_100pct"
    # 64 frames, as pre-emphasis makes them at 500; its key will be features.pre_emphasis.
    config.features.hop_length = 501
    config.features.n_mels = 512
    config.model = ml_collections.ConfigDict({"name": "tf_sepnet", "width": 64, "depth": 17})
    config.model.norm = "res_norm"
    config.model.dropout = 0.1
    config.model.kernel_init = "pytorch"
    config.budget.role = "teacher"
    return config.lock()
