"""Kernels in CUDA, and what compiles and launches them."""
