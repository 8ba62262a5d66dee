"""PyTorch's twin of the CNN-GRU; see `asc_jax.models.cnn_gru`.

Its modules are named so that its tensors have the names of `asc_jax.pytorch.networks`.
"""

import torch
from torch import nn
from torch.nn import functional

from asc_jax.models.cnn_gru import DIVISOR

POOLS = functional.max_pool2d, functional.avg_pool2d


class CNNGRU(nn.Module):
    """Log-mels `[b, 1, f, t]` → logits `[b, 10]`; see ours for the attributes."""

    def __init__(self, width, hidden, dropout, step_dropout, n_mels):
        super().__init__()
        inside, last = 3 * width // 2, 6 * width
        first, n_maps = max(inside // DIVISOR, 1), max(last // DIVISOR, 1)
        for number in (1, 2, 3, 4):
            self.register_parameter(f"param{number}", nn.Parameter(torch.tensor(0.5)))
        self.conv2d_1_0 = conv_bn(1, first, (3, 3))
        self.conv2d_1_1 = conv_bn(first, width // 2, (1, 1))
        self.shuffle1 = nn.ChannelShuffle(width // 4)
        self.codw2d_1L1 = conv_bn(width // 2, width, (3, 1), groups=width // 2)
        self.codw2d_1R1 = conv_bn(width, width, (1, 3), groups=width // 2)
        self.se_1_1 = SqueezeExcite(width)
        for k in (1, 2):
            self.add_module(f"conv2d_2_{k}", conv_bn(width, inside, (1, 1)))
            self.add_module(f"codw2d_2_{k}L", conv_bn(inside, 2 * inside, (5, 1), groups=inside))
            time = conv_bn(2 * inside, 2 * inside, (1, 5), (2, 2), groups=2 * inside)
            self.add_module(f"codw2d_2_{k}R", time)
            self.add_module(f"se_2_{k}", SqueezeExcite(2 * inside))
        self.conv2d_3_1 = conv_bn(2 * inside, 2 * inside, (1, 1))
        self.shuffle2 = nn.ChannelShuffle(inside)
        self.codw2d_3_1 = conv_bn(2 * inside, last, (5, 1), (2, 1), groups=2 * inside)
        self.drop = nn.Dropout2d(dropout)
        self.conv2d_4_1 = conv_bn(last, n_maps, (5, 1))
        n_bins = -(-(-(-(n_mels // 2) // 2) // 2) // 2)  # pool, stride, pool, stride
        self.bgru2d_4_1 = nn.GRU(n_bins, hidden, batch_first=True)
        self.drop_steps = nn.Dropout1d(step_dropout)
        self.conv1d_5_2 = nn.Conv1d(1, 10, n_maps)

    def forward(self, x):
        silu = functional.silu
        x = self.shuffle1(self.conv2d_1_1(self.conv2d_1_0(x)))
        x = self.se_1_1(silu(self.codw2d_1R1(self.codw2d_1L1(x))))
        branches = [self.branch(k, pool(x, 2)) for k, pool in enumerate(POOLS, 1)]
        (max_of_max, max_of_mean), (mean_of_max, mean_of_mean) = (
            [pool(branch, 2) for branch in branches] for pool in POOLS
        )
        means = mix(self.param1, mean_of_mean, mean_of_max)
        x = mix(self.param4, means, mix(self.param2, max_of_max, max_of_mean))
        x = self.shuffle2(x + self.conv2d_3_1(x))
        x = silu(self.conv2d_4_1(self.drop(silu(self.codw2d_3_1(x)))))
        x = x.mean(3)  # [b, map, mel bin]
        states = self.drop_steps(self.bgru2d_4_1(x)[0])
        x = silu(mix(self.param3, x.mean(2), states.mean(2)))
        return self.conv1d_5_2(x[:, None])[:, :, 0]

    def branch(self, k, x):
        """Run one of the two branches."""
        for name in (f"conv2d_2_{k}", f"codw2d_2_{k}L", f"codw2d_2_{k}R"):
            x = getattr(self, name)(x)
        return getattr(self, f"se_2_{k}")(functional.silu(x))


class SqueezeExcite(nn.Module):
    """Weight each channel by a function of the means of all channels."""

    def __init__(self, n):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n, n // 2), nn.Linear(n // 2, n)

    def forward(self, x):
        weight = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3))))))
        return x * weight[:, :, None, None]


def conv_bn(c_in, c_out, size, strides=(1, 1), groups=1):
    """Return a convolution without bias and batch normalisation."""
    padding = tuple(n // 2 for n in size)
    conv = nn.Conv2d(c_in, c_out, size, strides, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def mix(share, x, y):
    """Return the share of x, and for the rest y."""
    return share * x + (1 - share) * y
