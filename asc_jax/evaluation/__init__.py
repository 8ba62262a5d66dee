"""One pass over a split: predictions, metrics, calibration, error analysis and their report."""
