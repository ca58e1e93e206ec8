"""Tensors in, tensors out: kernels for GPUs and CPUs, and their references in plain torch."""
