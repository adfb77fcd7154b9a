"""One call of a loss: `call`; `prepare` (checks, a plan); `routes` (which kernel: `cpu`, `gpu`, `formula`); `run_plan` (the result)."""
