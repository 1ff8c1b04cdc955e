"""Nanoseconds for each count of an engine's `features`; written by ``tools/fit_conv_costs.py``, not by hand."""

COSTS: dict[tuple[str, str, str, str], tuple[float, ...]] = {}
