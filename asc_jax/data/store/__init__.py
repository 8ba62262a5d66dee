"""The built data set: written by `dataset`, read by `reader`."""
