"""Many runs, trained and evaluated one after the other, and statistics of their predictions."""
