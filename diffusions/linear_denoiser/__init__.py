"""The denoiser that can be solved."""
