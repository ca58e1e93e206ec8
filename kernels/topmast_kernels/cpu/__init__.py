"""CPU kernels in numba: block-quantised linear layers, paged attention, and a whole decoder step over a few rows.

Tensors in, tensors out. `formats.py` and `cache.py` load neither numba nor torch.
"""
