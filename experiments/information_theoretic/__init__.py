"""Densities from denoising errors: `python -m experiments.information_theoretic`."""
