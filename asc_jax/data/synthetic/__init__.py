"""Synthetic scenes, for the demo and the tests."""
