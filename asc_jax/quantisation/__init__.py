"""Write a trained network in integers of 8 bits for devices: one program, the same bits everywhere.

`asc_jax.operations` has the program: `lower` writes the operations that its `reader` reads as those
that have integers, `calibrate` finds the range of every result on clips, `program` makes a list of
integer steps of them, and `simulate` runs it in JAX. Here, `litert` writes it as a LiteRT file,
whose reference kernels compute the same bits, `onnx` in ONNX, and `c_library` in C. `run` does this
for a finished run.
"""
