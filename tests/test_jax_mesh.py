"""JAX on several devices: arrays spread over a mesh, in eager mode and compiled; exported, checked for NaN, with traced parameters.

The number of devices is chosen once in a process, so this file runs itself as a script.
"""

import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def test_mesh():
    flags = "--xla_force_host_platform_device_count=4"
    if tuple(map(int, version("jaxlib").split(".")[:2])) >= (0, 10):  # older ones may not know it
        flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"  # for 40: threads of a busy machine may come late
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    # Else calls outside jit may wait for ever (JAX 0.10): a device admits 32 programs at once, and later ones leave no room for the one
    # that the other devices wait for.
    environment["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "0"
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(CHECKS)


def spread(x, *axes):
    """An array over a mesh of four devices, or of two by two."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = np.array(jax.devices())
    mesh = Mesh(devices, ("d",)) if "d" in axes or not axes else Mesh(devices.reshape(2, 2), ("a", "b"))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


def cases():
    """Every loss with targets and predictions that it takes, (8, 10)."""
    import polyloss as pl
    from polyloss._core.block import LOSSES

    rng = np.random.default_rng(0)
    p = ((rng.integers(2, 18, (8, 10)) + 0.5) / 20).astype("f4")  # none near a clip at 0.2
    labels = rng.integers(0, 10, 8)
    t = rng.integers(0, 2, (8, 10)).astype("f4")
    for name, block in LOSSES.items():
        if name == "gaussian_nll":
            yield name, p[:, 0].copy(), p[:, :2].copy(), pl.get(name)
        else:
            dense = t + np.float32(0.5) if "deviance" in name else t  # theirs are of means and targets above 0
            targets = labels if block.targets in ("labels", "either") else p[:, 0].copy() if block.targets == "values" else dense
            yield name, targets, p, pl.get(name)


def total(x):
    return np.asarray(x, np.float64).sum()


@check
def eager_calls_take_spread_arrays():
    """Of any sharding, beside NumPy's and others that are on no particular device."""
    import jax.numpy as jnp

    import polyloss as pl

    for name, t, p, loss in cases():
        expected, slopes = total(loss(t, p)), pl.grad(name)(t, p)
        for y in (spread(t, "d"), spread(t), t, jnp.asarray(t)):
            np.testing.assert_allclose(total(loss(y, spread(p, "d"))), expected, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(pl.grad(name)(spread(t, "d"), spread(p, "d")), slopes, rtol=2e-5, atol=1e-6, err_msg=name)
    weight = np.linspace(0, 1, 8, dtype="f4")
    given = {"sample_weight": weight, "class_weight": np.linspace(1, 2, 10, dtype="f4")}
    expected = pl.softmax_loss(np.arange(8), p, **given)
    np.testing.assert_allclose(pl.softmax_loss(spread(np.arange(8), "d"), spread(p, "d"), **given), expected, rtol=1e-6)


@check
def results_are_bound_to_a_device_only_if_an_input_was():
    import jax
    import jax.numpy as jnp

    import polyloss as pl

    for name, t, p, loss in cases():
        assert not loss(jnp.asarray(t), jnp.asarray(p)).committed, name
        second = jax.devices()[1]
        results = pl.value_and_grad(name)(t, jax.device_put(p, second))
        assert all(x.committed and x.devices() == {second} for x in results), name
    with pytest.raises(ValueError, match="all must be on one device"):
        pl.softmax_loss(jax.device_put(np.arange(8), jax.devices()[2]), jax.device_put(p, second))


@check
def weights_may_lie_otherwise_than_predictions():
    """On a mesh whose shardings are part of types, which operations of the program must agree on."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import polyloss as pl

    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    t, p, weight = np.full((8, 3), 0.5, "f4"), np.linspace(0.1, 1, 24, dtype="f4").reshape(8, 3), np.arange(8, dtype="f4") % 3

    def slopes(t, p, weight):
        return jax.grad(lambda *x: pl.gamma_deviance(*x[:2], sample_weight=x[2], reduction="sum"), (0, 1, 2))(t, p, weight)

    wanted = slopes(*map(jnp.asarray, (t, p, weight)))
    with jax.set_mesh(mesh):
        for across in ((True, True, False), (False, False, True), (True, True, True)):
            specs = [PartitionSpec("d") if cut else PartitionSpec() for cut in across]
            given = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip((t, p, weight), specs, strict=True)]
            for x, y in zip(jax.jit(slopes)(*given), wanted, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@check
def compiled_calls_gather_nothing():
    """Each device calls its kernel; the gradient lies as the logits do."""
    import jax

    import polyloss as pl

    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((4096, 32)).astype("f4"), rng.integers(0, 32, 4096)
    w, k, t = rng.random(4096).astype("f4"), rng.random(32).astype("f4"), np.abs(z)
    maps, labels = rng.standard_normal((8, 5, 32, 32)).astype("f4"), rng.integers(0, 5, (8, 32, 32))
    calls = {
        "valid": (lambda z, y: pl.softmax_loss(y, z, ignore_label=3), (z, "d"), (y, "d")),
        "full": (lambda z, y: pl.softmax_loss(y, z, normalization="full"), (z, "d"), (y, "d")),
        "weighted": (lambda z, y, w: pl.softmax_loss(y, z, ignore_label=3, sample_weight=w, class_weight=k), (z, "d"), (y, "d"), (w, "d")),
        "soft": (lambda z, t: pl.softmax_loss(t, z, label_smoothing=0.1), (z, "d"), (t, "d")),
        "none": (lambda z, y: pl.softmax_loss(y, z, reduction="none").mean(), (z, "d"), (y, "d")),
        "spatial": (lambda z, y: pl.softmax_loss(y, z, ignore_label=0), (maps, "a", None, "b"), (labels, "a", "b")),
        "bce": (lambda z, t: pl.binary_crossentropy(t, z, from_logits=True, reduction="mean"), (z, "d"), (t, "d")),
        "kl": (lambda z, t: pl.kl_divergence(t, z * z, reduction="mean"), (z, "d"), (t, "d")),
    }
    for name, (call, *arguments) in calls.items():
        step = jax.jit(jax.value_and_grad(call))
        here, there = [x for x, *_ in arguments], [spread(x, *axes) for x, *axes in arguments]
        compiled = step.lower(*there).compile().as_text()
        assert "all-gather" not in compiled, name
        assert "polyloss" in compiled, name
        value, slopes = step(*there)
        expected, expected_slopes = jax.value_and_grad(call)(*here)
        np.testing.assert_allclose(value, expected, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(slopes, expected_slopes, rtol=2e-5, atol=1e-8, err_msg=name)
        assert slopes.sharding.is_equivalent_to(there[0].sharding, slopes.ndim), name
    # What a hinge's targets mean is decided by all of them, wherever they are.
    z, t = np.tile(z, (16, 1)), np.zeros((65536, 32), "f4")
    t[-1] = -1
    value = jax.jit(lambda z, t: pl.squared_hinge(t, z, reduction="mean"))(spread(z, "d"), spread(t, "d"))
    np.testing.assert_allclose(value, pl.squared_hinge(t, z, reduction="mean"), rtol=1e-5)


@check
def maps_over_devices_work():
    import jax
    from jax.sharding import Mesh, PartitionSpec

    import polyloss as pl

    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((4096, 32)).astype("f4"), rng.integers(0, 32, 4096)
    expected = float(pl.softmax_loss(y, z))
    mesh = Mesh(np.array(jax.devices()), ("d",))
    shards = (PartitionSpec("d"), PartitionSpec("d"))
    function = jax.shard_map if hasattr(jax, "shard_map") else __import__("jax.experimental.shard_map").experimental.shard_map.shard_map
    mapped = function(lambda z, y: jax.lax.pmean(pl.softmax_loss(y, z), "d"), mesh=mesh, in_specs=shards, out_specs=PartitionSpec())
    np.testing.assert_allclose(jax.jit(mapped)(z, y), expected, rtol=1e-6)
    each = jax.pmap(lambda z, y: pl.softmax_loss(y, z))(z.reshape(4, 1024, 32), y.reshape(4, 1024))
    np.testing.assert_allclose(each.mean(), expected, rtol=1e-6)


@check
def programs_with_symbolic_sizes_are_exported():
    import jax
    import jax.numpy as jnp
    from jax import export

    import polyloss as pl

    for name, t, p, loss in cases():
        (b,) = export.symbolic_shape("b")
        arguments = [jax.ShapeDtypeStruct((b, *x.shape[1:]), jnp.asarray(x).dtype) for x in (t, p)]
        program = export.export(jax.jit(jax.grad(lambda t, p, loss=loss: loss(t, p).sum(), argnums=1)))(*arguments)
        slopes = program.call(jnp.asarray(t), jnp.asarray(p))
        np.testing.assert_allclose(slopes, pl.grad(loss)(t, p), rtol=2e-5, atol=1e-6, err_msg=name)


@check
def the_debugger_finds_no_nan():
    import jax
    import jax.numpy as jnp

    with jax.debug_nans(True):
        for _, t, p, loss in cases():
            jax.grad(lambda p, t=t, loss=loss: loss(jnp.asarray(t), p).sum())(jnp.asarray(p))


@check
def parameters_may_be_traced():
    """Value and derivative with respect to each parameter that is a number; those that decide the program are refused by name."""
    import jax
    import jax.numpy as jnp

    from polyloss._core import params as _params
    from polyloss._core.block import LOSSES

    for name, t, p, loss in cases():
        for key, rule in LOSSES[name].params.items():
            if rule not in (_params.number, _params.positive, _params.nonnegative, _params.fraction, _params.clip_bound):
                continue
            at = {"epsilon": 0.2, "label_smoothing": 0.1, "gamma": 1.5, "quantile": 0.3}.get(key, 0.7)

            def f(v, key=key, t=t, p=p, loss=loss):
                return loss(t, p, **{key: v}).sum()

            np.testing.assert_allclose(jax.jit(f)(at), f(at), rtol=1e-5, err_msg=f"{name} {key}")
            h = 2e-3
            slope = (float(f(at + h)) - float(f(at - h))) / (2 * h)
            np.testing.assert_allclose(jax.jit(jax.grad(f))(at), slope, rtol=2e-2, atol=3e-2, err_msg=f"{name} {key}")
    for key, name in (("ignore_label", "softmax_loss"), ("ignore_class", "sparse_categorical_crossentropy")):
        loss = {n: f for n, *_, f in cases()}[name]
        with pytest.raises(TypeError, match=f"{key} is traced by JAX, but must be known"):
            jax.jit(lambda v, loss=loss, key=key: loss(jnp.zeros(2, int), jnp.ones((2, 3)), **{key: v}))(1)


@check
def first_calls_wait_for_no_other_device():
    """On each device they enter Python, here beside a thread that gives the interpreter up only where it must; later ones do not."""
    import threading

    import jax

    import polyloss as pl

    rng = np.random.default_rng(0)
    z, y = spread(rng.standard_normal((64, 10)).astype("f4"), "d"), spread(rng.integers(0, 10, 64), "d")
    step = jax.jit(jax.value_and_grad(lambda z, y, d: pl.softmax_loss(y, z, denominator=d)))
    expected = float(step(z, y, 8.0)[0])
    stop, threads = threading.Event(), pl.get_num_threads()

    def busy():
        numbers = list(range(20000))
        while not stop.is_set():
            numbers.sort(reverse=numbers[0] == 0)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for n in range(1, 25):
            pl.set_num_threads(n)  # the first call of a text by so many threads
            here = float(step(z, y, 8.0)[0])
            scale = 2.0**-90 if n % 2 else 2.0**90  # kernels divide by no such number: Python's turn
            there = float(step(z, y, 8.0 * scale)[0])
            assert here == expected, n
            np.testing.assert_allclose(there * scale, expected, rtol=1e-6)
    finally:
        stop.set()
        thread.join()
        pl.set_num_threads(threads)


@check
def what_a_device_calls_is_no_operation_of_jax():
    """One would wait for the threads of XLA that wait for this call."""
    import threading
    from unittest import mock

    import jax
    import jax.numpy as jnp
    from jax.extend.core import Primitive

    import polyloss as pl
    from polyloss._adapters import jax as adapter
    from polyloss._call.cpu import kernels

    inside, used, calls = threading.local(), set(), []
    bind = Primitive.bind

    def seen(primitive, *arguments, **options):
        if getattr(inside, "now", False):
            used.add(primitive.name)
        return bind(primitive, *arguments, **options)

    def watched(function):
        def watched(*arguments):
            inside.now = True
            calls.append(function.__name__)
            try:
                with jax.disable_jit():  # else what is compiled by now is called past `bind`
                    return function(*arguments)
            finally:
                inside.now = False

        return watched

    handler = kernels("xla").handler
    with mock.patch.object(Primitive, "bind", seen):
        handler(watched(adapter._bind), watched(adapter._run))
        try:
            for dtype in ("float32", "bfloat16"):
                for _, t, p, loss in cases():
                    step = jax.jit(jax.value_and_grad(lambda p, t=t[:6], loss=loss: loss(t, p).sum()))
                    jax.block_until_ready(step(jnp.asarray(p[:6], dtype)))
                step = jax.jit(jax.value_and_grad(lambda z, d: pl.softmax_loss(np.arange(8), z, denominator=d)))
                jax.block_until_ready(step(jnp.asarray(p, dtype), 2.0**90))
        finally:
            handler(adapter._bind, adapter._run)
    assert {"_bind", "_run"} <= set(calls), calls
    assert not used, used


if __name__ == "__main__":
    for name, function in CHECKS.items():
        function()
        sys.stdout.write(name + "\n")
