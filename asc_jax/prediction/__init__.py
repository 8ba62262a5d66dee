"""Predict the classes of recordings of any length and rate."""
