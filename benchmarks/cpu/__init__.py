"""Everything to be measured on a CPU, xpconv beside its peers, in one command: ``python -m benchmarks.cpu``.

Each section runs in processes of its own, one for each number of threads and setting of the allocator: both can be
fixed for every library only when a process starts. In such a process all contenders run in turn on the same arrays. A
section that fails or hangs loses itself alone. One table and the stated goals come last; both are saved.
"""
