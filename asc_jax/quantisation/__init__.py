"""Compute a trained network in integers of 8 bits: the program, its ranges, and ways to run it.

`calibrate` finds the range of every result on clips, `program` makes of the operations that
`export.reader` reads a list of integer steps, `simulate` runs it in JAX, and `litert` writes it as a
LiteRT file, whose reference kernels compute the same bits.
"""
