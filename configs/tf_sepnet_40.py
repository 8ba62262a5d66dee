"""TF-SepNet-40 on the 5 % split, by the official baseline's recipe.

    python train.py --config tf_sepnet_40.py

Only the network is TF-SepNet's: its authors train it in another way. They publish 53,370
parameters and, at 64 frames, 7,025,200 multiply-accumulates (MACs); they shorten the clip by the
sample that their pre-emphasis needs. The front end here has no pre-emphasis, so it makes 65 frames.
Source: Y. Cai, P. Zhang, S. Li, see `asc_jax.models.tf_sepnet`; every other value is in `base.py`.
"""

import ml_collections

from configs import base


def get_config():
    config = base.get_config()
    config.model = ml_collections.ConfigDict({"name": "tf_sepnet", "width": 40, "depth": 16})
    config.model.norm = "ada_res_norm"
    config.model.dropout = 0.1
    return config.lock()
