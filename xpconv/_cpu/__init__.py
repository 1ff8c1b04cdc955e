"""The compiled CPU kernels as operators of the NumPy backend."""

ENGINES: dict = {}
