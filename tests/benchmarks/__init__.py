"""Benchmarks: each prints ratios against a peer measured in the same run. ``python -m tests.benchmarks.bench_calls`` and so on.

Nothing here asserts a time: machines are noisy. The figures are medians of interleaved rounds, CPU time before wall time.
"""
