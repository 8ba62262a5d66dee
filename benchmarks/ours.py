"""Our jobs, through the code that trains and evaluates; a job is a function of its request."""

import collections
import functools
import itertools
import tempfile
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import experiment, features
from asc_jax.complexity import count_macs
from asc_jax.data.clips import epoch_order, from_arrays, n_batches, open_split
from asc_jax.errors import UserError
from asc_jax.evaluation.evaluate import make_eval_step
from asc_jax.machine import compiler_memory, distributed, replicas
from asc_jax.models.from_config import log_mel_shape, model
from asc_jax.training.placement import place_state
from asc_jax.training.resident import place_clips, resident_steps
from benchmarks import inputs, ours_data, ours_network
from benchmarks.inputs import Job
from benchmarks.reference import write_reference

N_RUN_STEPS = 13_500  # of the schedule: a 5 % run


def set_up(threads: int, n_replicas: int | None = None) -> None:
    """As train.py starts: on a CPU one replica a core, unless the environment says otherwise."""
    del threads, n_replicas  # the process has its cores, the environment its number
    distributed.start()
    compiler_memory.trim_after_compiling()


def model_step(spec: Mapping) -> Job:
    """The network's training step on log-mels."""
    parts = _parts(spec)
    log_mel = inputs.log_mels(spec["batch"], *log_mel_shape(parts.config)[:2])
    tx = parts.tx(N_RUN_STEPS)
    train_steps = ours_network.train_steps(parts, tx)
    return _training(spec, parts, tx, train_steps, log_mel)


def whole_step(spec: Mapping) -> Job:
    """The training step from the waveform."""
    parts = _parts(spec)
    audio = inputs.waveforms(spec["batch"], parts.n_samples)
    tx = parts.tx(N_RUN_STEPS)
    train_steps = parts.train_steps(tx, axis_name=replicas.AXIS)
    return _training(spec, parts, tx, train_steps, audio)


def epoch(spec: Mapping) -> Job:
    """A pass over a built split, as `loop.fit` makes it.

    Where the split is held in memory, a pass also reads a tenth of it: what is read once counts
    as shared by ten epochs.
    """
    parts = _parts(spec)
    clips = open_split(spec["data_dir"], spec["split"])
    source, held = place_clips(clips, spec.get("resident", "auto"))
    tx, slots = parts.tx(N_RUN_STEPS), spec["slots"]
    if held is not None:
        slots = resident_steps(slots, n_batches(len(clips), spec["batch"]))
    train = replicas.pmap_train(parts.train_steps(tx, axis_name=replicas.AXIS))
    state = place_state(parts.new_state(parts.variables(), tx), parts.config, spec["batch"])
    numbers = itertools.count()

    def run():
        nonlocal state
        order = epoch_order(len(clips), parts.config.seed, next(numbers))
        if held is not None:
            collections.deque(clips.batches(order[: len(clips) // 10], spec["batch"]), maxlen=0)
        batches, metrics = source.batches(order, spec["batch"]), None
        while call := list(itertools.islice(batches, slots)):
            before = metrics
            stacked = replicas.stack_and_shard(call, slots)
            state, metrics = train(state, stacked, len(call), parts.root_key(), held)
            if before is not None:
                np.asarray(before["loss"])
        jax.block_until_ready((state, metrics))

    return Job(run, len(clips))


def inference(spec: Mapping) -> Job:
    """Evaluation's compiled step, from the waveform or from log-mels."""
    parts, n_clips = _parts(spec), spec["batch"]
    step = make_eval_step(parts)
    audio = inputs.waveforms(n_clips, parts.n_samples)
    if spec["source"] == "log_mel":
        audio = inputs.log_mels(n_clips, *log_mel_shape(parts.config)[:2])[..., None]
        step = ours_network.make_eval_step(parts.config)
    n = min(n_clips, replicas.n_replicas())
    evaluate, variables = replicas.pmap_eval(step, n), parts.variables()
    batch = replicas.shard(_batch(audio), n)
    return Job(lambda: jax.block_until_ready(evaluate(variables, batch)), n_clips)


def log_mels(spec: Mapping) -> Job:
    """The front end alone."""
    config = inputs.read_config(spec)
    front_end = jax.jit(functools.partial(features.log_mel, **config.features))
    audio = inputs.waveforms(spec["batch"], config.features.sample_rate)
    return Job(lambda: jax.block_until_ready(front_end(audio)), len(audio))


def resident_step(spec: Mapping) -> Job:
    """`whole_step` on clips that lie on the accelerator; `n_seeds`: of as many models at once."""
    parts, n_seeds = _parts(spec), spec.get("n_seeds")
    tx, slots = parts.tx(N_RUN_STEPS), spec["slots"]
    audio = inputs.waveforms(spec["batch"], parts.n_samples)
    batches = jax.tree.map(lambda x: jnp.stack([x] * slots), _batch(audio))
    state, key = parts.new_state(parts.variables(), tx), parts.root_key()
    train = parts.train_steps(tx)
    if n_seeds is not None:
        state, batches = jax.tree.map(lambda x: jnp.stack([x] * n_seeds), (state, batches))
        key = jax.random.split(key, n_seeds)
        train = jax.vmap(train, in_axes=(0, 0, None, 0))
    train = jax.jit(train, donate_argnums=0)

    def run():
        nonlocal state
        state, metrics = train(state, batches, slots, key)
        jax.block_until_ready((state, metrics))

    return Job(run, slots * len(audio) * (n_seeds or 1))


def whole_run(spec: Mapping) -> Job:
    """A run as train.py makes it, of clips in memory; saved ten times, not evaluated."""
    from asc_jax.evaluation.evaluate import make_evaluator
    from asc_jax.training import loop  # needs tqdm and tensorboardX, which timing a step does not

    config = _parts(spec).config.copy_and_resolve_references().unlock()
    n_epochs = spec["n_epochs"]
    config.train.update(n_epochs=n_epochs, eval_every_epochs=0)
    config.train.checkpoint_every_epochs = max(1, n_epochs // 10)
    parts = experiment.make(config.lock())
    n_clips = spec["n_clips"]
    audio = inputs.waveforms(n_clips, parts.n_samples)
    clips = from_arrays(audio, inputs.labels(n_clips), np.zeros(n_clips, np.int32))

    def run():
        with tempfile.TemporaryDirectory(prefix="benchmarks_") as workdir:
            loop.fit(
                parts, clips, None, workdir, make_evaluator=make_evaluator, **parts.config.train
            )

    return Job(run, n_epochs * n_clips)


def count(spec: Mapping) -> Job:
    """The exact MACs of the network, as every command counts them before it starts."""
    config = inputs.read_config(spec)
    net = model(config)
    clip = jax.ShapeDtypeStruct((1, *log_mel_shape(config)), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), clip)
    return Job(lambda: count_macs(net.apply, variables, clip), 1)


def copy(spec: Mapping) -> Job:
    """What the memory can do: every number of a large array read and written."""
    numbers = jnp.zeros((1 << (16 if spec["toy"] else 28),), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return Job(lambda: add(numbers).block_until_ready(), 2 * numbers.nbytes)


def _parts(spec: Mapping) -> experiment.Experiment:
    config = inputs.read_config(spec).unlock()
    config.precision.compute = spec.get("dtype", "float32")
    return experiment.make(config.lock())


def _training(spec: Mapping, parts, tx, train_steps, audio: np.ndarray) -> Job:
    """One compiled call of several steps, batches from the host, as `loop.fit` makes it."""
    n, n_steps = spec.get("n_replicas"), spec.get("n_steps", spec["slots"])
    if n is not None and n > replicas.n_replicas():
        raise UserError(f"{n} replicas need as many accelerators")
    train = replicas.pmap_train(train_steps, n)
    state = place_state(parts.new_state(parts.variables(), tx), parts.config, len(audio), n)
    batches = replicas.stack_and_shard([_batch(audio)] * spec["slots"], spec["slots"], n)

    def run():
        nonlocal state
        state, metrics = train(state, batches, n_steps, parts.root_key())
        jax.block_until_ready((state, metrics))

    return Job(run, n_steps * len(audio))


def _batch(audio: np.ndarray) -> dict[str, np.ndarray]:
    n_clips = len(audio)
    return {"audio": audio, "label": inputs.labels(n_clips), "mask": np.ones(n_clips, bool)}


JOBS = {
    "model_step": model_step,
    "whole_step": whole_step,
    "epoch": epoch,
    "build": ours_data.build,
    "build_many": ours_data.build_many,
    "inference": inference,
    "features": log_mels,
    "resident_step": resident_step,
    "whole_run": whole_run,
    "count": count,
    "copy": copy,
    "reference": write_reference,
}
