"""Stochastic localization of sparse matrices: `python -m experiments.sparse_localization`."""
