"""CP-Mobile at half the cost, on the 25 % split, by the official baseline's recipe.

    python train.py --config students/cp_mobile_half.py

Only the network is theirs. The second block has the strides (2, 2) and the third none: 61,160
parameters and, at the 64 frames that their front end with pre-emphasis makes, 17,047,552
multiply-accumulates (17,050,260 as torchinfo counts them). Published, with knowledge distillation
from four teachers: 58.85 % on the evaluation set of DCASE 2025; 59.3 % on the development test
list, from which the authors also chose the checkpoint.
Source: Li_NTU, HaoWLee/dcase2025_task1_Li_NTU; every other value is in `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_25pct"
    # 64 frames, as pre-emphasis makes them at 500; its key will be features.pre_emphasis.
    config.features.hop_length = 501
    config.model.grn = True
    with config.unlocked():
        config.model.strides = ((1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1))
    return config.lock()
