"""Speed on this machine: what `xpconv bench` and the benchmarks of the source tree share."""
