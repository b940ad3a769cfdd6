"""The benchmark: `python -m bench` measures the promises of docs/benchmarks.md. Not part of the package."""
