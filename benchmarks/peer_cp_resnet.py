"""PyTorch's twin of CP-ResNet; see `asc_jax.models.cp_resnet`.

Its modules are named so that its tensors have the names of `asc_jax.pytorch.networks`.
"""

import collections

from torch import nn

from asc_jax.models.cp_resnet import BLOCKS

NAMES = ("stage1", "block1"), ("stage1", "block2"), ("stage2", "block1"), ("stage3", "block1")


class CPResNet(nn.Module):
    """Log-mels `[b, 1, f, t]` → logits `[b, 10]`; see ours for the attributes."""

    def __init__(self, widths):
        super().__init__()
        conv = nn.Conv2d(1, widths[0], 5, 2, 1, bias=False)
        self.in_c = nn.Sequential(conv, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        stages, n_before = collections.defaultdict(collections.OrderedDict), widths[0]
        self.pools = nn.ModuleList(
            nn.Identity() if b[3] is None else nn.MaxPool2d(b[3]) for b in BLOCKS
        )
        for (stage, name), (index, sizes, groups, _) in zip(NAMES, BLOCKS, strict=True):
            stages[stage][name] = Residual(n_before, widths[index], sizes, groups)
            n_before = widths[index]
        for stage, blocks in stages.items():
            self.add_module(stage, nn.Sequential(blocks))
        head = nn.Conv2d(n_before, 10, 1, bias=False)
        self.feed_forward = nn.Sequential(head, nn.BatchNorm2d(10))

    def forward(self, x):
        x = self.in_c(x)
        for (stage, name), pool in zip(NAMES, self.pools, strict=True):
            x = getattr(getattr(self, stage), name)(pool(x))
        return self.feed_forward(x).mean((2, 3))


class Residual(nn.Module):
    """Two convolutions, added to the input; where the width changes, to a 1×1 convolution of it."""

    def __init__(self, c_in, c_out, sizes, groups):
        super().__init__()
        for number, (n, size) in enumerate(zip((c_in, c_out), sizes, strict=True), 1):
            conv = nn.Conv2d(n, c_out, size, padding=size // 2, groups=groups, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(c_out))
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if c_in != c_out:
            self.shortcut.add_module("conv", nn.Conv2d(c_in, c_out, 1, groups=groups, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
