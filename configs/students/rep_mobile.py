"""A CP-Mobile with re-parameterised depthwise filters, on the 25 % split, without distillation.

    python train.py --config students/rep_mobile.py

In training each depthwise filter is a weighted sum of filters of 3×3, 1×1, 1×3 and 3×1, each with
its own batch normalisation. Deployed it is one 3×3 filter with a bias, which is what is counted,
stored, evaluated and exported: 60,664 parameters and, at 64 frames, 17,047,552
multiply-accumulates.
This is the kind of network of two systems and a copy of neither. Strides, SiLU, global response
normalisation and branches are those of Chang_HYU's code, in the repository below (2025: 58.98 % on
the evaluation set, with distillation and a network tuned to each device). Its attention over
channels, time and frequency is left out, and the expansion is the baseline's: 2.3, its code's
default, makes 65,656 parameters, which as float16 are over the limit of bytes. Han_SJTUTHU (first
in 2024, arXiv 2405.10018 and 2410.20775) has such branches too, but prunes its network in steps. No
accuracy is published for this one. Front end, optimiser, schedule and augmentation are those of
CP-Mobile 2023, and what is left out of them there is left out here.
Source: seunggyu-han/dcase2025_task1_hyu, see `asc_jax.models.layers.BranchedDepthwise`; every other
value is in `cp_mobile_12310.py`.
"""

from configs.students import cp_mobile_12310


def get_config():
    config = cp_mobile_12310.get_config()
    config.data.train_split = "train_25pct"
    config.model.width = 32
    config.model.width_multiplier = 1.8
    config.model.expansion = 2.1
    config.model.activation = "silu"
    with config.unlocked():
        config.model.strides = ((1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1))
        config.model.depthwise = "branches"
    return config.lock()
