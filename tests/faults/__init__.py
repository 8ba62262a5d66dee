"""Faults done to training and to building a data set, and what they must not lead to."""
