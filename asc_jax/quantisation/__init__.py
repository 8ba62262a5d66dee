"""Compute a trained network in integers of 8 bits: one program and several ways to run it.

`lower` writes the operations that `export.reader` reads as those that have integers, and `calibrate`
finds the range of every result on clips. `program` makes a list of integer steps of them. `simulate` runs it in JAX, and `litert` writes it as a LiteRT
file, whose reference kernels compute the same bits. `run` does all of this for a finished run.
"""
