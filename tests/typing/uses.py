"""What a user writes, for tests/test_types.py: a line that ends in "# wrong" must be refused by mypy --strict, and no other."""

from typing import Any, assert_type

import numpy as np

import polyloss as pl

y = np.array([0.0, 1.0])
p = np.array([0.5, 3.0])
labels = np.array([0, 2])
logits = np.zeros((2, 3))

# values
pl.huber(y, p, delta=2.0, reduction="sum_over_batch_size").item()
pl.huber([0.0, 1.0], [0.5, 3.0], sample_weight=[1.0, 0.0], reduction=None)
pl.huber(y, p, dleta=2.0)  # wrong
pl.huber(y, p, reduction="avg")  # wrong
pl.huber(y, p, axis="classes")  # wrong
pl.huber(y)  # wrong
pl.huber(y, p, 2.0)  # wrong
pl.hinge(y, p, labels="01")
pl.hinge(y, p, labels="0/1")  # wrong
pl.binary_crossentropy(y, p, from_logits=True, label_smoothing=0.1)
pl.binary_crossentropy(y, p, label_smothing=0.1)  # wrong
pl.categorical_focal_crossentropy(logits, logits, alpha=[0.25, 0.5, 0.25], from_logits=True)
pl.sparse_categorical_crossentropy(labels, logits, ignore_class=255)
pl.sparse_categorical_crossentropy(labels, logits, ignore_class="255")  # wrong
pl.tweedie_deviance(y, p, power=1.2)
pl.tweedie_deviance(y, p, power="1.2")  # wrong
pl.dice(logits, logits, axis=(0, 1))
pl.gaussian_nll(y, logits, weights=y)  # wrong
loss, prob = pl.softmax_loss(labels, logits, ignore_label=[255, -1], normalization="full", return_prob=True)
pl.softmax_loss(labels, logits, normalization=pl.Normalization.VALID, softcap=30.0)
pl.softmax_loss(labels, logits, normalization="valyd")  # wrong
pl.softmax_loss(labels, logits, reduction="mean")  # wrong
pl.softmax_loss(labels, logits, ignore_index=255)  # wrong
pl.log_loss(labels, logits, labels=[0, 1, 2], normalize=False)
pl.log_loss(labels, logits, eps=1e-7)  # wrong

pl.linear_softmax_loss(labels, logits, logits, normalization="valid", chunk=64)
pl.linear_softmax_loss(labels, logits, logits, normalization="valyd")  # wrong

# derivatives: a function's arguments are known, a name's are not
value, gradient = pl.value_and_grad(pl.huber)(y, p, delta=2.0)
value, gradient = pl.value_and_grad(pl.huber)(y, p, delta=2.0, out=np.empty(2))
pl.value_and_grad(pl.huber)(y, p, dleta=2.0)  # wrong
pl.value_and_grad(pl.huber)(y)  # wrong
pl.value_and_grad(pl.huber)(y, p).sum()  # wrong
value, gradient, hessian = pl.value_and_grad("huber")(y, p)  # wrong
assert_type(pl.value_and_grad("mse")(y, p), tuple[Any, Any])
(value, prob), gradient = pl.value_and_grad(pl.softmax_loss)(y_true=labels, logits=logits, ignore_label=255, return_prob=True)
pl.value_and_grad(pl.softmax_loss)(labels, logits, ignor_label=3)  # wrong
value, (of_features, of_weight) = pl.value_and_grad(pl.linear_softmax_loss)(labels, logits, logits, chunk=3)
pl.value_and_grad(pl.linear_softmax_loss)(labels, logits)  # wrong
value, gradient = pl.value_and_grad(pl.get("huber", delta=2.0))(y, p, reduction="sum")
gradient = pl.grad("mse")(y, p)
gradient = pl.grad(pl.mean_squared_error)(y, p, out=gradient)
pl.grad(pl.softmax_loss)(labels, logits, ignor_label=3)  # wrong
pl.grad(1)  # wrong
gradient, hessian = pl.grad_and_hess("mse")(y, p)
gradient, hessian = pl.grad_and_hess(pl.huber)(y, p, out=(gradient, hessian))
pl.grad_and_hess(pl.huber)(y, p, out=y)  # wrong
pl.grad_and_hess(pl.huber)(y, p, axis="classes")  # wrong
first, second, third = pl.grad_and_hess("mse")(y, p)  # wrong

# names, routes, threads
pl.get("huber", delta=2.0)(y, p)
pl.get(pl.huber)(y, p, delta=2.0)
pl.get(pl.huber)(y, p, dleta=2.0)  # wrong
pl.get(3)  # wrong
pl.names()[0].upper()
pl.names().append("mine")  # wrong
route: str = pl.explain("mse", y, p).route
obstacles: list[str] = pl.explain("mse", y, p).obstacles  # wrong
pl.explain(pl.softmax_loss, labels, logits, return_prob=True, axis=-1)
pl.explain(pl.softmax_loss, labels, logits, axes=-1)  # wrong
pl.set_num_threads(pl.get_num_threads())
pl.set_num_threads("two")  # wrong

# batches
one = pl.Accumulator(pl.huber, delta=2.0, reduction="sum").update(y, p).merge(pl.Accumulator("huber", delta=2.0))
assert_type(one.result() + one.standard_error() + one.weight + one.total, float)
assert_type(one.count, int)
several = pl.Accumulator({"mse": "mse", "wide": (pl.huber, {"delta": 2.0})})
assert_type(several.update(y, p).result(), dict[str, float])
assert_type(several.count, dict[str, int])
several.merge(one)  # wrong
several.result().is_integer()  # wrong
several.upgrade(y, p)  # wrong
pl.Accumulator({"mse": "mse"}, delta=2.0)  # wrong
pl.Accumulator(1)  # wrong
pl.Accumulator("mse", reduction="avg")  # wrong
read: pl.Accumulator = pl.Accumulator.from_bytes(one.to_bytes())
assert_type(pl.evaluate(["mse", (pl.huber, {"delta": 2.0})], [(y, p), (y, p, [1.0, 0.0])], progress=True), dict[str, float])
pl.evaluate("mse", 3)  # wrong
pl.evaluate(3, [(y, p)])  # wrong
