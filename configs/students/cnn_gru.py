"""The CNN-GRU of 2025, on the 25 % split, by the official baseline's recipe.

    python train.py --config students/cnn_gru.py

Network and front end are theirs, at 44.1 kHz without resampling: build the data set for it with
`asc-jax prepare-data --sample_rate 44100`. 58,171 parameters and 10,889,944 multiply-accumulates,
430,080 of them in the GRU (10,902,300 published). Published, without distillation: 59.94 % on the
evaluation set of DCASE 2025; 60.35 % on the development test list, from which the authors also
chose the checkpoint.
Source: Tan_SNTLNTU, joesephgit/DCASE2025, see `asc_jax.models.cnn_gru`; every other value is in
`base.py`.
"""

import ml_collections

from configs import base


def get_config():
    config = base.get_config()
    config.data.dir = "data/tau22_44k"
    config.data.train_split = "train_25pct"
    config.features.sample_rate = 44_100
    config.features.n_fft = 8192
    config.features.win_length = 8192
    config.features.hop_length = 1364
    config.features.f_max = 22_050.0
    config.model = ml_collections.ConfigDict({"name": "cnn_gru", "width": 24, "hidden": 64})
    config.model.dropout = 0.3
    config.model.step_dropout = 0.5
    config.model.kernel_init = "pytorch"
    return config.lock()
