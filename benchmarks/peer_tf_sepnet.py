"""PyTorch's twin of TF-SepNet, of the modules that its authors use; see `asc_jax.models.tf_sepnet`.

Its modules are named as ours, so that the names of its tensors follow from ours by a rule, which
is in `benchmarks.reference`.
"""

import torch
from torch import nn

from asc_jax.models.tf_sepnet import LAYERS, NORM, POOL


class TFSepNet(nn.Sequential):
    """Log-mels `[b, 1, f, t]` → logits `[b, 10]`; see ours for the attributes."""

    def __init__(self, width: int, depth: int, norm: str, dropout: float):
        super().__init__()
        half, n_norms, n_blocks = width // 2, 0, 0
        self.stem1 = ConvBnRelu(1, half, (3, 3), 2)
        self.stem2 = ConvBnRelu(half, 4 * half, (3, 3), 2, groups=half)
        n_channels = 4 * half
        for number, layer in enumerate(LAYERS[depth]):
            if layer == POOL:
                self.add_module(f"pool{number}", nn.MaxPool2d(2))
            elif layer == NORM:
                n_norms += 1
                self.add_module(f"n{n_norms}", RES_NORMS[norm](n_channels))
            else:
                n_blocks, n = n_blocks + 1, int(layer * width)
                self.add_module(f"b{n_blocks}", TimeFrequencySeparate(n_channels, n, dropout))
                n_channels = n
        self.head = nn.Conv2d(n_channels, 10, 1)

    def forward(self, x):
        return super().forward(x).mean((2, 3))


class ConvBnRelu(nn.Conv2d):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, c_in, c_out, size, stride=1, groups=1):
        padding = tuple(n // 2 for n in size)
        super().__init__(c_in, c_out, size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.norm(super().forward(x)))


class TimeFrequencySeparate(nn.Module):
    """A block: half the shuffled channels are filtered over mel bins, the others over frames."""

    def __init__(self, c_in, c_out, dropout):
        super().__init__()
        n = c_out // 2
        self.expand = nn.Identity() if c_in == c_out else ConvBnRelu(c_in, c_out, (1, 1))
        self.freq_depthwise = ConvBnRelu(n, n, (3, 1), groups=n)
        self.freq_pointwise = ConvBnRelu(n, n, (1, 1))
        self.time_depthwise = ConvBnRelu(n, n, (1, 3), groups=n)
        self.time_pointwise = ConvBnRelu(n, n, (1, 1))
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x = self.expand(x)
        b, c, f, t = x.shape
        x = x.reshape(b, 2, c // 2, f, t).transpose(1, 2).reshape(b, c, f, t)
        freq, time = x.split(c // 2, dim=1)
        over_freq = self.freq_pointwise(self.freq_depthwise(freq).mean(2, keepdim=True))
        over_time = self.time_pointwise(self.time_depthwise(time).mean(3, keepdim=True))
        return torch.cat((freq + self.drop(over_freq), time + self.drop(over_time)), dim=1)


class ResNorm(nn.Module):
    """Normalise each mel bin of a clip over its frames and channels, and add it to the input."""

    def __init__(self, n_channels):
        super().__init__()

    def forward(self, x):
        return 0.1 * x + self.normal(x)

    def normal(self, x):
        mean, var = x.mean((1, 3), keepdim=True), x.var((1, 3), keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()


class AdaResNorm(ResNorm):
    """The same, weighted by channel."""

    def __init__(self, n_channels):
        super().__init__(n_channels)
        self.rho = nn.Parameter(torch.full((n_channels,), 0.5))
        self.gamma = nn.Parameter(torch.ones(n_channels))
        self.beta = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x):
        rho, gamma, beta = (v[:, None, None] for v in (self.rho, self.gamma, self.beta))
        return gamma * (rho * x + (1 - rho) * self.normal(x)) + beta


RES_NORMS = {"res_norm": ResNorm, "ada_res_norm": AdaResNorm}
