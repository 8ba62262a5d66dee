"""Table 1 of the report: the runs, their statistics and the table."""
