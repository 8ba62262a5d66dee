"""Define the network in PyTorch, to compare with; nothing else in the package needs it.

Its `state_dict` has the names and shapes of the official baseline's, so that what loads
strictly here loads strictly there. Modules are made inside functions: this file can be imported
without PyTorch.
"""

import collections
import functools

from asc_jax.errors import UserError
from asc_jax.machine.optional_packages import require
from asc_jax.models.cp_mobile import STAGES, STRIDES
from asc_jax.models.layers import BRANCHES, BatchNorm, make_divisible


def make_twin(
    *,
    width: int = 32,
    width_multiplier: float = 1.8,
    expansion: float = 2.1,
    n_classes: int = 10,
    grn: bool = False,
    strides=STRIDES,
    activation: str = "relu",
    depthwise: str = "batch_norm",
):
    """Return a fresh twin of `CPMobile` with these attributes: `make_twin(**config.model)`.

    Args:
      width, width_multiplier, expansion, n_classes, grn, strides, activation, depthwise: see
        `CPMobile`.

    Returns:
      `torch.nn.Module` in training mode, `log_mel [b, 1, n_mels, n_frames]` → `logits
      [b, n_classes]` in the dtype of its parameters. Kernels come from torch's generator.

    Raises:
      UserError: PyTorch is not installed, or the activation is unknown.

    Source: CP-Mobile as simplified by the official baseline, see `models.cp_mobile`.
    """
    nn = require("torch").nn
    act = _activations().get(activation)
    if act is None:
        raise UserError(f"unknown activation {activation!r}; known: {', '.join(_activations())}")
    width = make_divisible(width)
    stem = nn.Sequential(
        _conv_bn(1, width // 4, 3, (2, 2), act=act),
        _conv_bn(width // 4, width, 3, (2, 2), act=act),
    )
    stages = [nn.Sequential() for _ in {*STAGES}]
    c_in = width
    for number, (stage, stride) in enumerate(zip(STAGES, strides, strict=True), 1):
        c_out = make_divisible(width * width_multiplier**stage)
        n_expanded = make_divisible(c_in * expansion)
        block = _block_class()(c_in, n_expanded, c_out, tuple(stride), grn, act, depthwise)
        stages[stage].add_module(f"b{number}", block)
        c_in = c_out
    stages = {f"s{number}": stage for number, stage in enumerate(stages, 1)}
    head = _conv_bn(c_in, n_classes, 1)
    head.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    modules = {
        "in_c": stem,
        "stages": nn.Sequential(collections.OrderedDict(stages)),
        "feed_forward": head,
    }
    return nn.Sequential(collections.OrderedDict(modules))


def _activations() -> dict:
    """Return activation modules by the names that `CPMobile` knows them by."""
    nn = require("torch").nn
    return {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "hard_swish": nn.Hardswish,
        "silu": nn.SiLU,
        "gelu": functools.partial(nn.GELU, approximate="tanh"),  # what flax calls gelu
    }


def _conv_bn(c_in: int, c_out: int, size, strides=(1, 1), groups: int = 1, act=None):
    """Return a convolution without bias padded by size // 2, batch normalisation, activation.

    size: of the kernel, a number or one for each axis.
    """
    nn = require("torch").nn
    size = (size, size) if isinstance(size, int) else size
    padding = tuple(n // 2 for n in size)
    conv = nn.Conv2d(c_in, c_out, size, strides, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    norm = nn.BatchNorm2d(c_out, eps=BatchNorm.epsilon, momentum=BatchNorm.momentum)
    return nn.Sequential(conv, norm, *([] if act is None else [act()]))


@functools.cache
def _response_norm_class():
    """Define and return the class of global response normalisation, which needs PyTorch."""
    torch = require("torch")
    nn = torch.nn

    class GlobalResponseNorm(nn.Module):
        """Compute what `models.layers.GlobalResponseNorm` does."""

        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.zeros(1))
            self.beta = nn.Parameter(torch.zeros(1))

        def forward(self, x):  # [b, c, f, t]
            norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
            ratio = norm / (norm.mean(dim=1, keepdim=True) + 1e-6)
            return x + self.gamma * (x * ratio) + self.beta

    return GlobalResponseNorm


@functools.cache
def _branches_class():
    """Define and return the class of a depthwise layer of several branches."""
    torch = require("torch")
    nn = torch.nn

    class Branches(nn.Module):
        """Compute what `models.layers.BranchedDepthwise` does, and the activation."""

        def __init__(self, n, strides, act):
            super().__init__()
            self.alpha = nn.Parameter(torch.ones(len(BRANCHES)))
            for name, size in BRANCHES.items():
                self.add_module(f"conv{name}", _conv_bn(n, n, size, strides, groups=n))
            self.act = act()

        def forward(self, x):  # [b, c, f, t]
            weights = nn.functional.softplus(self.alpha)
            filtered = [getattr(self, f"conv{name}")(x) for name in BRANCHES]
            return self.act(sum(w * y for w, y in zip(weights, filtered, strict=True)))

    return Branches


@functools.cache
def _block_class():
    """Define and return the class of the residual blocks."""
    nn = require("torch").nn

    class InvertedResidual(nn.Module):
        """Compute what `models.layers.InvertedResidual` does."""

        def __init__(self, c_in, n_expanded, c_out, strides, grn, act, depthwise):
            super().__init__()
            filters = {
                "batch_norm": lambda: _conv_bn(n_expanded, n_expanded, 3, strides, n_expanded, act),
                "branches": lambda: _branches_class()(n_expanded, strides, act),
                "fused": lambda: nn.Sequential(
                    nn.Conv2d(n_expanded, n_expanded, 3, strides, 1, groups=n_expanded), act()
                ),
            }
            self.after_block_norm = _response_norm_class()() if grn else nn.Identity()
            self.block = nn.Sequential(
                _conv_bn(c_in, n_expanded, 1, act=act),
                filters[depthwise](),
                _conv_bn(n_expanded, c_out, 1),
            )
            self.shortcut = None
            if c_in == c_out:
                strided = strides != (1, 1)
                self.shortcut = nn.AvgPool2d(3, strides, 1) if strided else nn.Identity()
            self.act = act()

        def forward(self, x):  # [b, c, f, t]
            y = self.block(x)
            y = y if self.shortcut is None else y + self.shortcut(x)
            return self.act(self.after_block_norm(y))

    return InvertedResidual
