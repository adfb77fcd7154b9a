"""Compiled modules for the CPU: the front of a call, the driver, one module for each kind of loss, exact sums."""
