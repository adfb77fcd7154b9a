"""The vector functions, on every instruction set this machine executes, against float64, long double and mpmath.

A sample of all float32 bit patterns is taken. `POLYLOSS_EXHAUSTIVE=1 pytest -s -k bit_patterns` takes all and prints the worst errors: 25
minutes on a busy core for three instruction sets.
"""

import os
import shutil
import subprocess
from importlib import import_module

import mpmath
import numpy as np
import pytest
from kernels import every_isa

from polyloss._kernels.cpu import elementwise

STEP = 1 if os.environ.get("POLYLOSS_EXHAUSTIVE") == "1" else 4099  # a prime: no bit is left out
CHUNK = 1 << 14  # stays in the second-level cache


def log_cosh(x):
    """Of x >= 0, in the dtype of x; near 0 by cosh x = 1 + 2 sinh²(x/2)."""
    return np.where(x < 1, np.log1p(2 * np.sinh(np.minimum(x, 1) / 2) ** 2), x + np.log1p(np.exp(-2 * x)) - np.log(x.dtype.type(2)))


# function: (float64 function, domain, worst error in units of the last place: float32, float64)
FUNCTIONS = {
    "exp": (np.exp, (-np.inf, np.inf), 1.0, 1.0),
    "exp_neg": (np.exp, (-np.inf, 44.0), 1.0, 1.0),
    "log": (np.log, (-np.inf, np.inf), 0.95, 1.0),
    "log1p": (np.log1p, (-np.inf, np.inf), 1.55, 1.35),
    "log1p_01": (np.log1p, (0.0, 1.0), 1.6, 1.35),
    "log_half": (np.log, (0.0, 0.5), 1.05, 1.0),
    "log1m_half": (lambda x: np.log1p(-x), (0.0, 0.5), 1.1, 1.35),
    "log_cosh": (log_cosh, (0.0, np.inf), 2.1, 2.0),
    "tanh": (np.tanh, (0.0, np.inf), 2.6, 1.95),
}


isa = every_isa(elementwise)


def exponents(x):
    """2 to the exponent of float64 numbers, by their bits: many times faster than frexp; 0 of subnormal ones."""
    return (x.view(np.uint64) & np.uint64(0x7FF << 52)).view(np.float64)


def errors(got, want, dtype):
    """Distance from `want`, of higher precision, in units of the last place of `dtype`; huge where one is not finite and the other is."""
    limits = np.finfo(dtype)
    with np.errstate(all="ignore"):
        rounded = want.astype(dtype)
        power = exponents(want) if want.dtype == np.float64 else np.ldexp(want.dtype.type(1), np.frexp(np.abs(want))[1] - 1)
        error = np.abs(got - want) / (np.maximum(power, limits.smallest_normal) * want.dtype.type(limits.eps))
    special = ~np.isfinite(rounded) | ~np.isfinite(got)
    if special.any():
        error[special] = np.where((got == rounded) | (np.isnan(got) & np.isnan(rounded)), 0, 1e9)[special]
    return error


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_bit_patterns(name):
    reference, (low, high), bound, _ = FUNCTIONS[name]
    before, worst = elementwise.isa(), dict.fromkeys(elementwise.isas(), (0.0, 0.0))
    try:
        for start in range(0, 1 << 32, CHUNK * STEP):
            x = np.arange(start, min(start + CHUNK * STEP, 1 << 32), STEP, dtype=np.int64).astype(np.uint32).view(np.float32)
            x = x[((x >= low) & (x <= high)) | np.isnan(x)]
            if not x.size:
                continue
            with np.errstate(all="ignore"):
                want = reference(x.astype(np.float64))
            for isa in worst:
                elementwise.force(isa)
                error = errors(elementwise.math(name, x), want, np.float32)
                k = error.argmax()
                worst[isa] = max(worst[isa], (float(error[k]), float(x[k])))
    finally:
        elementwise.force(before)
    print(name, *(f"{isa} {error:.3f} at {x!r}" for isa, (error, x) in worst.items()))
    assert all(error < bound for error, _ in worst.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_against_long_double(isa, name):
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("long double is no longer than double here")
    reference, (low, high), _, bound = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 64, 100_000, dtype=np.uint64).view(np.float64)
    x = np.concatenate([bits, rng.uniform(-750, 715, 50_000), rng.uniform(-1, 1, 50_000), rng.uniform(0.5, 2, 50_000)])
    x = x[(x >= low) & (x <= high)]
    with np.errstate(all="ignore"):
        assert errors(elementwise.math(name, x), reference(x.astype(np.longdouble)), np.float64).max() < bound


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_mpmath(isa, name, dtype):
    _, (low, high), *bounds = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-20, 20, 100), rng.uniform(-1, 1, 100), 10 ** rng.uniform(-9, 2, 50), -(10 ** rng.uniform(-9, 0, 50))])
    x = x.astype(dtype)
    x = x[(x >= low) & (x <= high) & ((x > -1) | ("exp" in name)) & ((x > 0) | ("log_" not in f"{name}_"))]
    special = {"log1m_half": lambda x: mpmath.log1p(-x), "log_cosh": lambda x: mpmath.log(mpmath.cosh(x))}
    function = special.get(name) or getattr(mpmath, name.partition("_")[0])
    with mpmath.workprec(200):
        exact = [function(mpmath.mpf(float(v))) for v in x]
        got = elementwise.math(name, x)
        ulp = [mpmath.ldexp(1, mpmath.frexp(e)[1] - np.finfo(dtype).nmant - 1) for e in exact]
        worst = max(abs(mpmath.mpf(float(g)) - e) / u for g, e, u in zip(got, exact, ulp, strict=True))
    assert worst < bounds[dtype is np.float64]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(isa, dtype):
    def values(name, *x):
        return elementwise.math(name, np.array(x, dtype)).tolist()

    inf, nan, tiny = np.inf, np.nan, float(np.finfo(dtype).smallest_subnormal)
    largest, exp_top = float(np.finfo(dtype).max), float(np.log(np.finfo(dtype).max, dtype=dtype))
    for name in ("exp", "exp_neg"):
        assert values(name, 0.0, -0.0, -inf, -1e9, -largest, tiny) == [1, 1, 0, 0, 0, 1]
    assert values("exp", inf, largest, 1000.0) == [inf] * 3
    assert np.isfinite(values("exp", np.nextafter(dtype(exp_top), dtype(0)))).all()
    assert values("log_cosh", 0.0, tiny, inf) == [0, 0, inf]
    assert values("tanh", 0.0, tiny, 1000.0, inf) == [0, tiny, 1, 1]
    assert values("log", 0.0, -0.0, 1.0, inf) == [-inf, -inf, 0, inf]
    assert values("log1p", 0.0, -1.0, inf, tiny, -tiny) == [0, -inf, inf, tiny, -tiny]
    assert values("log1p_01", 0.0, tiny) == [0, tiny]
    assert values("log1m_half", 0.0, tiny) == [0, -tiny]
    assert np.isnan(values("log", -tiny, -1.0, -inf)).all()
    assert np.isnan(values("log1p", -1.5, -inf)).all()
    for name in FUNCTIONS:
        assert np.isnan(values(name, nan)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maximum_and_minimum_keep_a_nan_in_the_first_argument_here(isa, dtype):
    # math gives max(x, parameter): the second place wins where one is NaN, so a NaN parameter stays and a NaN in x is replaced.
    x = np.array([1.0, np.nan, -3.0, np.inf], dtype)
    assert elementwise.math("max", x, 0.5).tolist() == [1, 0.5, 0.5, np.inf]
    assert elementwise.math("min", x, 0.5).tolist() == [0.5, 0.5, -3, 0.5]
    assert np.isnan(elementwise.math("max", x, np.nan)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 2.5, 7.0, -1.0, 0.3, 2.7])
def test_power(isa, dtype, n):
    rng = np.random.default_rng(2)
    x = (10 ** rng.uniform(-6, 1, 1000)).astype(dtype)
    got = elementwise.math("power", x, n)
    exact = x.astype(np.longdouble) ** np.longdouble(dtype(n))
    bound = 20.0 if dtype is np.float64 and n % 0.5 else 5.0  # else |log x| units: 14 at 1e-6
    assert errors(got, exact, dtype).max() < bound
    assert elementwise.math("power", np.zeros(3, dtype), n).tolist() == [float(n == 0)] * 3


@pytest.mark.parametrize("n", [1, 3, 4, 5, 15, 16, 17, 33])
def test_lengths_around_a_vector(isa, n):
    x = np.linspace(-3, 3, n, dtype=np.float32)
    assert np.array_equal(elementwise.math("exp", x), elementwise.math("exp", np.resize(x, 64))[:n])


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm to list a module's symbols")
@pytest.mark.parametrize("name", ["elementwise", "rowwise", "values", "sets", "log_loss"])
def test_no_loop_calls_the_c_library(name):
    """One scalar expf in a loop costs an order of magnitude. frexp and ldexp are of whole rows."""
    if elementwise.isas() == ("baseline",):
        pytest.skip("without vector extensions the functions are the C library's")
    module = import_module(f"polyloss._kernels.cpu.{name}").__file__
    listed = subprocess.run(["nm", "-D", "--undefined-only", module], check=True, capture_output=True, text=True).stdout
    called = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    functions = ("exp", "exp2", "expm1", "log", "log2", "log1p", "pow", "tanh", "cosh", "sqrt", "fma", "floor", "rint", "fmax", "fmin")
    assert "PyModuleDef_Init" in called
    assert not called & {f + suffix for f in functions for suffix in ("", "f")}
