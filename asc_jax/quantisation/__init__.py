"""Write a trained network in integers of 8 bits for devices: one program, the same bits everywhere.

The program and its simulation in JAX are those of `asc_jax.operations`. `litert` writes it as a
LiteRT file, whose reference kernels compute the same bits, and `c_library` in C. `run` does this
for a finished run.
"""
