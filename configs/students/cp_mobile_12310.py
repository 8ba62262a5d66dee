"""The small CP-Mobile of 2023, on the 100 % split, as its authors train it.

    python train.py --config students/cp_mobile_12310.py

Network, front end, optimiser, schedule and augmentation are theirs: 12,310 parameters and, at the
64 frames of their front end with pre-emphasis, 3,883,008 multiply-accumulates; at 65 frames
4,292,864 (4.35 million published). Published, with knowledge distillation: 58.7 % on the
evaluation set of DCASE 2023.
Left out, because they need files: their microphones' impulse responses (docs/augmentation.md; p 0.6
on device a) and their teachers (docs/distillation.md; the defaults of `config.distill` are theirs).
Source: F. Schmid, T. Morocutti et al., see `asc_jax.models.cp_mobile`, and fschmid56/cpjku_dcase23;
every other value is in `base.py`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_100pct"
    config.features.pre_emphasis = 0.97
    config.features.window = "hann_symmetric"
    config.features.mel_scale = "kaldi"
    config.features.f_max = 15_500.0
    config.features.f_max_jitter = 1000.0
    config.features.norm_mean = -4.5
    config.features.norm_std = 5.0
    config.model.width = 8
    config.model.width_multiplier = 2.8
    config.model.expansion = 2.2
    config.model.grn = True
    config.augment.time_roll.max_s = 0.125  # 4,000 samples
    config.augment.freq_mask.max_width = 0
    config.optim = ConfigDict({"name": "adam", "weight_decay": 1e-4})
    config.schedule = ConfigDict({"name": "warmup_flat_linear", "peak_lr": 9e-4})
    config.schedule.warmup_epochs = 14
    config.schedule.down_from_epoch = 50
    config.schedule.down_epochs = 84
    config.schedule.last = 0.005
    config.schedule.by_epoch = True
    with config.unlocked():
        # Log-mel 0, after norm_mean and norm_std.
        mask = {"name": "log_freq_mask", "max_width": 48, "value": 0.9}
        config.augment.log_freq_mask = ConfigDict(mask)
    return config.lock()
