"""Triton kernels for NVIDIA GPUs. Each module has one operation and a twin of the same name in `topmast_kernels.twin`.

They run in Triton's interpreter too (TRITON_INTERPRET=1 before the import), which is how they are tested without a GPU.
"""
