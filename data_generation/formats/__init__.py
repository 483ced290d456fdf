"""JSON, NumPy arrays, pickles and numbers as text, read within bounds and without trust."""
