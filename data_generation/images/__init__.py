"""Image datasets: downloads, readers, batches, masks."""
