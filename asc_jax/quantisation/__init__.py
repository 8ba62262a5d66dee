"""Compute a trained network in integers of 8 bits: one program and several ways to run it.

`lower` writes the operations that `export.reader` reads as those that have integers. `calibrate`
finds the range of every result on clips. `program` makes a list of integer steps of the operations.
`simulate` runs it in JAX, `litert` writes it as a LiteRT file, whose reference kernels compute the
same bits, and `c_library` writes it in C. `run` does all of this for a finished run.
"""
