"""CUDA sources, read with `importlib.resources` and compiled on first use."""
