"""Recordings and classes of one's own → clips: `inputs`, then `plan`, then `cutting`."""
