"""Speed, as medians and ratios of one run: `python -m benchmarks [NAME ...] [--json FILE]`."""
