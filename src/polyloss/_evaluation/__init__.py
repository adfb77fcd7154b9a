"""Behind `polyloss.evaluation`: what a batch adds to the sums of a loss (`measure`), and sums without rounding (`exact_sums`)."""
