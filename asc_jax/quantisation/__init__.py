"""Compute a trained network in integers of 8 bits: one program and several ways to run it.

`calibrate` finds the range of every result on clips. `program` makes a list of integer steps of the
operations that `export.reader` reads. `simulate` runs it in JAX, and `litert` writes it as a LiteRT
file, whose reference kernels compute the same bits. `run` does all of this for a finished run.
"""
