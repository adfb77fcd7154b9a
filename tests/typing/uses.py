"""What a user writes, for tests/test_types.py: a line that ends in "# wrong" must be refused by mypy --strict, and no other."""

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

# derivatives, names
value, gradient = pl.value_and_grad(pl.huber)(y, p, delta=2.0, out=np.empty(2))
gradient = pl.grad("mse")(y, p)
gradient, hessian = pl.grad_and_hess("mse")(y, p)
first, second, third = pl.grad_and_hess("mse")(y, p)  # wrong
pl.grad(1)  # wrong
pl.get("huber", delta=2.0)(y, p)
pl.names()[0].upper()
pl.names().append("mine")  # wrong
route: str = pl.explain("mse", y, p).route
obstacles: list[str] = pl.explain("mse", y, p).obstacles  # wrong
pl.set_num_threads(pl.get_num_threads())
pl.set_num_threads("two")  # wrong

# batches
total = pl.Accumulator({"mse": "mse"})
total.update(y, p).result()
total.upgrade(y, p)  # wrong
