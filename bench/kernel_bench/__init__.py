"""The parts of `bench/kernels.py`, which measures Topmast's kernels and others beside them."""
