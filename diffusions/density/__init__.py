"""Exact log densities from denoising errors."""
