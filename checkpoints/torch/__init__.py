"""PyTorch's files of weights, read without PyTorch."""
