"""The denoiser that can be solved: `python -m experiments.linear_denoiser`."""
