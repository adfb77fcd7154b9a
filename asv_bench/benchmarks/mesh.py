"""JAX under jit over logits whose positions are spread over four devices of this machine's CPU, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

DEVICES = 4


def timed(positions, classes, gradient):
    """Seconds of each rival, in a process that was started with as many devices."""
    import jax
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import polyloss as pl

    from . import timing

    rng = np.random.default_rng(0)
    spread = NamedSharding(Mesh(np.array(jax.devices()), ("positions",)), PartitionSpec("positions"))
    logits, labels = rng.standard_normal((positions, classes), np.float32), rng.integers(0, classes, positions)
    z, y = jax.device_put(logits, spread), jax.device_put(labels.astype(np.int32), spread)
    losses = {
        "polyloss": lambda z, y: pl.softmax_loss(y, z),
        "optax": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean(),
    }
    steps = {name: jax.jit(jax.value_and_grad(loss) if gradient else loss) for name, loss in losses.items()}
    values = [jax.tree.leaves(step(z, y))[0].item() for step in steps.values()]
    if not np.allclose(*values, rtol=1e-5):
        raise AssertionError(f"the rivals disagree: {values}")
    calls = {name: lambda step=step: jax.block_until_ready(step(z, y)) for name, step in steps.items()}
    return timing.alternate(calls, 2)


def contenders(positions, classes, gradient):
    """Each rival's seconds, as functions that tell them."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    command = f"import json; from benchmarks import mesh; print(json.dumps(mesh.timed({positions}, {classes}, {gradient})))"
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    return {name: lambda seconds=seconds: seconds for name, seconds in json.loads(done.stdout).items()}
