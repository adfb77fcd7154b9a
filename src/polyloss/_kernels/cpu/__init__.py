"""Compiled modules for the CPU: the cache of plans and what runs them, the driver, one module for each kind of loss, exact sums."""
