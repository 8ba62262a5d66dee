"""Write a trained run for other runtimes, and check every file in its own runtime first."""
