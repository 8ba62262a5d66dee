"""Write a trained network in integers of 8 bits for devices: one program, the same bits everywhere.

`calibrate` finds the range of every result on clips. `program` makes a list of integer steps of the
operations that `export.reader` reads. `simulate` runs it in JAX, and `litert` writes it as a LiteRT
file, whose reference kernels compute the same bits. `run` does all of this for a finished run.
"""
