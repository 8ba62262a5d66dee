"""Who takes part: a module of jobs, options for it, and the environment it runs in."""

import dataclasses
from collections.abc import Mapping

# With glibc's own settings PyTorch gives every large tensor back to the system and gets the
# next one as fresh pages. Nobody sets these, but they are its honest best.
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=100000000000"
}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as train.py gives itself
OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """module: of `benchmarks`, with JOBS. options: go into every request. env: of the process."""

    module: str
    options: Mapping = dataclasses.field(default_factory=dict)
    env: Mapping = dataclasses.field(default_factory=dict)


def _known() -> dict[str, Contestant]:
    known = {OURS: Contestant("ours", env=HUGE_PAGES)}
    for n in (1, 2, 4):
        env = {"JAX_NUM_CPU_DEVICES": str(n), **HUGE_PAGES}
        known[f"ours_{n}_replicas"] = Contestant("ours", {"n_replicas": n}, env)
    peers = {
        "torch": Contestant("peer", {"layout": "default"}),
        "torch_channels_last": Contestant("peer", {"layout": "channels_last"}),
        "torch_compile": Contestant("peer", {"layout": "channels_last", "compile": True}),
        "onnx": Contestant("runtimes", {"runtime": "onnx"}),
        "onnx_of_torch": Contestant("runtimes", {"runtime": "onnx_of_torch"}),
        "torch_then_onnx": Contestant("runtimes", {"runtime": "torch_then_onnx"}),
        "litert": Contestant("runtimes", {"runtime": "litert"}),
    }
    for name, peer in peers.items():
        # JAX serves a peer to read the config and to write files; a GPU stays with its owner.
        env = {"JAX_PLATFORMS": "cpu"}
        known[name] = dataclasses.replace(peer, env=env)
        known[f"{name}_tuned"] = dataclasses.replace(peer, env=env | TUNED)
    return known


CONTESTANTS = _known()
LAYOUTS = ("torch", "torch_channels_last", "torch_compile")
TRAINERS = (OURS, *LAYOUTS, *(f"{name}_tuned" for name in LAYOUTS))
ON_GPU = (OURS, *LAYOUTS)  # no allocator of the host matters there
