"""Write a trained run for other runtimes, and check every file in its own runtime first.

`stablehlo`, `onnx`, `litert` and `c_header` are the kinds of files. `build` writes a deployment as
`{stem: bytes}`, `load` returns what `build` wrote as two functions of numpy arrays, by name:
`waveform_to_probs`, `[b, n_samples]` → `[b, n_classes]`, and `log_mel_to_logits`, `[b, n_mels,
n_frames, 1]` → `[b, n_classes]`; all float32, any b.
"""
