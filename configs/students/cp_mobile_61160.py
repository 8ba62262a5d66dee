"""The baseline's CP-Mobile with its global response normalisation, on the 25 % split.

    python train.py --config students/cp_mobile_61160.py

The official baseline left the normalisation out of CP-Mobile; with it the network has 61,160
parameters, two more in each block (122,320 bytes, 119.5 KiB), and as without it 29,416,448
multiply-accumulates. No accuracy is published for it without further changes; the baseline
without it has 51.89 ± 0.05 % on the development test list of DCASE 2025, tuned to each device.
Front end, optimiser, schedule and augmentation are the baseline's. Their microphones' impulse
responses and teachers can be added: docs/augmentation.md and docs/distillation.md.
Source: see `asc_jax.models.cp_mobile`; every other value is in `base.py`.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.train_split = "train_25pct"
    config.model.grn = True
    return config.lock()
