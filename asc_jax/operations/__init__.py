"""Describe a trained network as a list of operations, in float32 and in integers of 8 bits.

`reader` reads the operations off the program of its evaluation, and `graph` computes them.
`calibrate` finds the range of every result on clips, `program` makes integer steps of operations
and ranges, and `simulate` runs them in JAX.
"""
