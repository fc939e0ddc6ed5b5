"""Benchmarks: what Sluice costs, beside other designs in the same run. See docs/benchmarks.md."""
