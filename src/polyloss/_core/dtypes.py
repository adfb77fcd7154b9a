"""The dtypes that are taken, and those of the computation."""

from functools import lru_cache

# Every dtype that is taken: name -> dtype of the computation, or the kind of an integer.
FLOATS = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
INTEGERS = {f"{sign}int{bits}": (sign == "u", bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}


@lru_cache(maxsize=256, typed=True)  # typed: array-api-strict's dtypes hash as NumPy's and warn when compared with them
def dtype_name(dtype):
    """The name that all libraries share: "float32", "int64", "bool", "bfloat16"; others as they print."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]
    return name


def representable(dtype, value):
    """Whether an integer is a value of a label dtype: ``uint8`` has no -1, ``float32`` no 2**24 + 1."""
    name = dtype_name(dtype)
    if name in FLOATS:
        bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[name]
        odd = abs(value) // (abs(value) & -abs(value)) if value else 0
        return odd.bit_length() <= bits and abs(value) < 2 ** (16 if name == "float16" else 127)
    unsigned, bits = INTEGERS[name]
    return 0 <= value < 2**bits if unsigned else -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
