"""Two runs, or several seeds of two systems, compared; and an index of the runs in a folder."""
