"""Benchmarks of tracin: `python -m bench --help`. Every case is verified against float64 before it is timed."""
