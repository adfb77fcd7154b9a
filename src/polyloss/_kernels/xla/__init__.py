"""The handler by which programs that XLA compiled call the kernels."""
