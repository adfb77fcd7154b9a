"""Where arrays are made."""

from array_api_compat import device, is_jax_array


def beside(x):
    """The device to make an array on that is used beside x. JAX places it by itself: x may be spread over a mesh of devices."""
    return None if is_jax_array(x) else device(x)
