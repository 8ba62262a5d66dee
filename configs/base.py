"""Every default of an experiment: the official baseline's recipe on the 5 % split.

    python train.py --config base.py

Source: the task's official PyTorch baseline (CPJKU, dcase2024_task1_baseline). Each section
holds the keywords of the function named above it, or the name of a part, an entry of the
dictionary named above it, and that part's keywords; `my_module:MyPart` names a part of yours.
Any value can be changed on the command line, e.g. `--config.schedule.peak_lr=1e-3`.
"""

import ml_collections

from asc_jax.data.tau.taxonomy import LABELS


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initial values, the order of clips and every draw

    # data.labels.Labels: names of classes and groups. Training takes those of its data set.
    config.labels = ml_collections.ConfigDict(LABELS.to_dict())

    # data.clips.open_for; a clip has clip_s seconds; batch_size counts those of all replicas.
    config.data = ml_collections.ConfigDict()
    config.data.dir = "data/tau22"  # of a built data set
    config.data.clip_s = 1.0  # seconds, as the data set was cut
    config.data.train_split = "train_5pct"  # several are joined by +
    config.data.test_split = "test"  # evaluated, never trained on
    config.data.batch_size = 256  # clips of all replicas in a step
    # data.held_out.split: fraction of the training locations that choose and fit, but do not train.
    config.data.validation_locations = 0.0

    # features.log_mel(waveform, **config.features); rates in Hz, lengths in samples.
    config.features = ml_collections.ConfigDict()
    config.features.sample_rate = 32_000  # Hz, as the clips are stored
    config.features.n_fft = 4096  # samples of a Fourier transform
    config.features.win_length = 3072  # samples of the window, in the middle of n_fft
    config.features.hop_length = 500  # samples from a frame to the next
    config.features.n_mels = 256  # mel bands
    config.features.f_min = 0.0  # Hz, lower edge of the lowest band
    config.features.f_max = 16_000.0  # Hz, upper edge of the highest band
    # What other networks' front ends have (docs/front_ends.md): 2-tap pre-emphasis, 0 for none;
    # "hann" (periodic) or "hann_symmetric"; mel bands of "htk" or "kaldi"; the network takes
    # (log-mel - norm_mean) / norm_std; and by how many Hz the bands' edges move in training.
    config.features.pre_emphasis = 0.0
    config.features.window = "hann"
    config.features.mel_scale = "htk"
    config.features.norm_mean = 0.0
    config.features.norm_std = 1.0
    config.features.f_min_jitter = 0.0
    config.features.f_max_jitter = 0.0

    # features.augmentation.AUGMENTATIONS: a section each, by any label; a value of 0 turns one off.
    config.augment = ml_collections.ConfigDict()
    # The baseline rolls at 44.1 kHz, before resampling; the stored 32 kHz clip is rolled here.
    config.augment.time_roll = ml_collections.ConfigDict({"name": "time_roll", "max_s": 0.1})
    config.augment.freq_mask = ml_collections.ConfigDict({"name": "freq_mask", "max_width": 48})
    config.augment.time_mask = ml_collections.ConfigDict({"name": "time_mask", "max_width": 0})
    config.augment.freq_mixstyle = ml_collections.ConfigDict(
        {"name": "freq_mixstyle", "p": 0.4, "alpha": 0.3}
    )

    # models.MODELS
    config.model = ml_collections.ConfigDict()
    config.model.name = "cp_mobile"
    config.model.width = 32  # channels of the first blocks
    config.model.width_multiplier = 1.8  # growth of the channels per stage
    config.model.expansion = 2.1  # width of a block inside over its input
    config.model.grn = False  # global response normalisation after each block
    config.model.activation = "relu"  # or relu6, hard_swish, silu, gelu

    # evaluation.initial.start: begin with the parameters of another run, "" for none; names of
    # parameters that begin afresh and that stay as they are, such as "head/*,b6/*"; and the factor
    # of the learning rate of all that was taken.
    config.init = ml_collections.ConfigDict()
    config.init.from_run = ""  # its folder
    config.init.checkpoint = "last"  # or best
    config.init.fresh = ""
    config.init.freeze = ""
    config.init.rate = 1.0

    # training.losses.LOSSES; gamma 0 is cross-entropy.
    config.loss = ml_collections.ConfigDict({"name": "focal", "gamma": 0.0})

    # training.distillation.distilled: files of teachers' logits, separated by commas, "" for none;
    # meta_csv is the table of those files whose rows are a table's. See docs/distillation.md.
    config.distill = ml_collections.ConfigDict()
    config.distill.logits = ""
    config.distill.meta_csv = ""
    config.distill.average = "logits"  # or probs: what is averaged over the teachers
    config.distill.temperature = 2.0  # divides the logits of both
    config.distill.weight = 0.02  # of the label loss; the rest is that of the teachers
    config.distill.reduction = "mean"  # or batchmean, which is n_classes times as much

    # training.aware: train as the integers of 8 bits compute, from init.from_run. calibration finds
    # the ranges to begin with: "mse", "percentile" or "minmax"; they follow the batches with this
    # momentum up to freeze_epoch, 0: not at all. See docs/quantisation.md.
    config.quantise = ml_collections.ConfigDict()
    config.quantise.aware = False
    config.quantise.calibration = "mse"
    config.quantise.freeze_epoch = 0
    config.quantise.momentum = 0.99

    # training.optim.OPTIMISERS and SCHEDULES: AdamW; linear warm-up, then cosine to 0.
    config.optim = ml_collections.ConfigDict({"name": "adamw", "weight_decay": 1e-4})
    config.schedule = ml_collections.ConfigDict()
    config.schedule.name = "warmup_cosine"
    config.schedule.peak_lr = 0.005  # learning rate after the warm-up
    config.schedule.warmup_steps = 2000  # linear from 0

    # Arithmetic of the network while training; storage dtype of the deployed parameters, or "int8".
    config.precision = ml_collections.ConfigDict()
    config.precision.compute = "float32"
    config.precision.stored = "float16"

    # limits.check_budget: the limits of the task, which can only be lowered.
    config.budget = ml_collections.ConfigDict()
    config.budget.max_macs = 30_000_000  # multiply-accumulates of a clip
    config.budget.max_bytes = 128_000  # of the parameters, in their storage dtype
    config.budget.enforce = True  # False: train over the limits, and say so in all results
    # "teacher": it may exceed the limits, and nothing that it makes can be submitted.
    config.budget.role = "submission"

    # loop.fit(..., **config.train); eval_every_epochs = 0: not before eval.py.
    config.train = ml_collections.ConfigDict()
    config.train.n_epochs = 150  # passes over the training split
    config.train.eval_every_epochs = 10  # 0: only after training, by asc-jax eval
    config.train.checkpoint_every_epochs = 1  # how often a run is saved
    config.train.keep_checkpoints = 2  # how many are kept, the newest
    config.train.keep_best = False  # also the epoch of the highest accuracy
    # Evaluate and store an exponential moving average of the parameters with this decay, as 0.999;
    # limit the norm of the gradient to clip_norm. 0: neither.
    config.train.ema = 0.0
    config.train.clip_norm = 0.0
    config.train.steps_per_call = 8  # twice as many, on a GPU 128, where the clips are resident
    # resident.place_clips: whether the training clips lie on the accelerators.
    config.train.resident = "auto"
    # Runs from seed, seed + 1, …, each in a workdir of its own inside --workdir.
    config.train.n_seeds = 1

    return config.lock()
