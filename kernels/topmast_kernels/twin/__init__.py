"""The operations of `topmast_kernels.gpu` in plain torch: same signatures, same semantics, any device.

They are the CPU path, and what a kernel is compared with where float64 would be too slow.
"""
