"""Cross-validation: each fold of a data set is tested by networks trained on the others."""
