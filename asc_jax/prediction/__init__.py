"""Predict the scenes of recordings of any length and rate."""
