"""CP-ResNet, a teacher, on the 100 % split, as its authors train it.

    python train.py --config teachers/cp_resnet.py

Network, front end, optimiser, schedule and augmentation are theirs: 127,684 parameters ("128 K")
and, at the 43 frames of their hop of 750, 28,839,120 multiply-accumulates; at 65 frames 45,980,032.
Published: 53.99 % on the development test list for a low-complexity CP-ResNet with impulse
responses, 52.27 % without (theMoro/DIRAugmentation); this one alone has no figure, CP-Mobiles were
distilled from it and others.
Left out, because they need files: the impulse responses (docs/augmentation.md; p 0.4 on device a).
Source: fschmid56/cpjku_dcase23, see `asc_jax.models.cp_resnet`; every other value is in
`students/cp_mobile_12310.py`.
"""

from ml_collections import ConfigDict

from configs.students import cp_mobile_12310


def get_config():
    config = cp_mobile_12310.get_config()
    config.features.hop_length = 750
    config.model = ConfigDict({"name": "cp_resnet", "widths": (32, 64, 92)})
    config.model.kernel_init = "kaiming_fan_in"
    config.augment.freq_mixstyle.p = 0.8
    config.augment.freq_mixstyle.alpha = 0.4
    config.optim.weight_decay = 1e-3
    config.schedule.peak_lr = 1e-3
    config.schedule.warmup_epochs = 15
    config.schedule.down_epochs = 85
    config.budget.role = "teacher"
    return config.lock()
