"""Images from few pixels: `python -m experiments.sparse_pixels`."""
