"""Side-by-side timings: ours, PyTorch, ONNX Runtime, LiteRT. `python -m benchmarks --help`.

__main__      flags, order, output
parts         what is measured, part by part
contestants   who takes part, and under which environment
contest       one process per contestant, alternation, statistics
worker        what runs in such a process
ours, peer, runtimes     the jobs themselves; peer_pipeline: features and augmentation in torch,
                         ours_network: ours on log-mels, ours_data: data sets to be built
inputs        sizes, config, clips
machine, report, roofline     where it ran, tables and picture, the memory limit of a GPU
"""
