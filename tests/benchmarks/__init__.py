"""Figures that zapex is built to reach, each beside its limit and its peers.

    python -m tests.benchmarks NAME [--json] [options]

Nothing here asserts on time: machines differ and drift, so only the ratios within one run mean
something. `--help` lists the names.
"""
