"""Gaussian-noise diffusion models: arrays in, arrays out."""
