"""Everything to be measured on a machine with a GPU, in one command: ``python -m benchmarks.gpu``.

It takes under ten minutes. Each section runs in a process of its own with a time budget, so that a crash or a hang
loses that section alone, and its rows are written to the JSON file as soon as they are there. A short table comes last.

``--backend cuda-host --tiny`` runs what makes sense without a GPU, with minute sizes: whether the script works, nothing
about speed.
"""
