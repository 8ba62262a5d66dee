"""Clips and recordings: TAU's folders, the built data set, synthetic scenes, batches."""
