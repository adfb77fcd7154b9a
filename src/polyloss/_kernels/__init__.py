"""Compiled code: the kernels for CPUs and GPUs, and the cache of plans. README.md beside this file says what is where."""
