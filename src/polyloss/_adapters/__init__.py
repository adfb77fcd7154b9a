"""What PyTorch, JAX and Dask need beside a plan: autograd, tracing, compilation, laziness, several processes. Imported when first used."""
