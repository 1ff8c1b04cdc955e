"""Speed and memory of xpconv beside its peers. See README.md in this folder; ``python -m benchmarks.cpu`` runs all."""
