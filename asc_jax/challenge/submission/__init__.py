"""Make and check the package that DCASE 2024 Task 1 asks for."""
