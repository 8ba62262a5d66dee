"""The network that a config describes, and the shape of its input."""

from asc_jax import features
from asc_jax.errors import UserError
from asc_jax.machine.named_parts import bind, errors_named, find, takes
from asc_jax.models import MODELS
from asc_jax.types import Params

SUPPLIED = ("dtype", "axis_name")  # attributes that the program sets where a network has them
N_CLASSES = "n_classes"  # and one that a config may set instead


def model(config, *, train: bool = False, axis_name: str | None = None):
    """Return the config's network.

    Args:
      config: whose section `model` is `{name, …attributes of the network}`.
      train: whether to compute in `config.precision.compute`; evaluation computes in float32.
      axis_name: the replica axis that batch statistics are taken over, under pmap.

    Raises:
      UserError: there is no such network, or it rejects an attribute.
    """
    compute = config.precision.compute
    supplied = {
        "dtype": compute if train and compute != "float32" else None,
        "axis_name": axis_name,
    }
    cls = find(MODELS, config.model.get("name"), "config.model")
    if supplied["dtype"] and not takes(cls, "dtype"):
        raise UserError(
            f"config.precision.compute is {compute}, but {config.model.name} has no attribute "
            "dtype: expected float32"
        )
    supplied = {name: value for name, value in supplied.items() if takes(cls, name)}
    if N_CLASSES not in config.model and takes(cls, N_CLASSES):
        supplied[N_CLASSES] = len(config.labels.classes)
    network = bind(MODELS, config.model, "config.model", supplied=supplied)
    with errors_named("config.model"):
        return network(**supplied)


def deployed(config) -> tuple:
    """Return the config of the network as it is deployed, and how to make its variables.

    A network that is deployed in another form than it is trained in, with branches fused, say, has
    a method `deployed()`. It returns the attributes in which the deployed network differs, none if
    it does not, and a function that makes the deployed network's variables of its own. What is
    counted, stored, evaluated after the training and exported is the deployed network.

    Returns:
      The config, and the function `variables -> variables`. Where there is no other form it is the
      very config that was given, and the function changes nothing.
    """
    network = model(config)
    changed, fuse = network.deployed() if hasattr(network, "deployed") else ({}, _same)
    if not changed:
        return config, _same
    config = config.copy_and_resolve_references().unlock()
    config.model.update(changed)
    return config.lock(), fuse


def _same(variables: Params) -> Params:
    return variables


def attributes(config) -> dict:
    """Return the attributes of the config's network: its section without the name."""
    return {key: value for key, value in config.model.items() if key != "name"}


def log_mel_shape(config) -> tuple[int, int, int]:
    """Return `(n_mels, n_frames, 1)` of a clip."""
    n_frames = features.n_frames(n_samples(config), **config.features)
    return config.features.n_mels, n_frames, 1


def n_samples(config) -> int:
    """Return the number of samples of a clip."""
    return round(config.data.clip_s * config.features.sample_rate)
