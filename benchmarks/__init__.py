"""Measurements of speed: `python -m benchmarks.NAME --help`; `smoke` is the quickest."""
