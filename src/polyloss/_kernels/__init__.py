"""Compiled code: the kernels for CPUs and GPUs, and the front of a call. README.md beside this file says what is where."""
