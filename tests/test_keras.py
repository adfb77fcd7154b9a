"""Keras 3 on JAX and on PyTorch: losses by name and `polyloss.keras`' classes, fitted to scikit-learn's digits with masks and weights.

Histories and numbers are Keras' own; saved models give our classes back. The backend of Keras is chosen once in a process, so each
backend is a run of this file as a script.
"""

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

NAMES = (
    "mse",
    "mae",
    "mape",
    "msle",
    "squared_hinge",
    "hinge",
    "binary_crossentropy",
    "logloss",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "kullback_leibler_divergence",
    "cosine_proximity",
)
KERAS = {"kullback_leibler_divergence": "kl_divergence", "cosine_proximity": "cosine_similarity", "logloss": "binary_crossentropy"}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fit(backend):
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "0"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [*NAMES, *CHECKS]


def history(keras, loss, x, y, weight):
    """The losses of two epochs of a small network whose mask hides steps, the same first weights each time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8)), keras.layers.Masking(), keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer="sgd", loss=loss)
    return model.fit(x, y, sample_weight=weight, batch_size=64, epochs=2, shuffle=False, verbose=0).history["loss"]


def constructors_are_those_of_keras(keras, classes):
    """Every class of Keras but those of sequences and pairs has one here, with the same arguments."""
    theirs = {name for name, x in vars(keras.losses).items() if isinstance(x, type)} - {"Loss", "CTC", "Circle"}
    assert theirs | {"SoftmaxLoss"} == {ours.__name__ for ours in classes.CLASSES.values()}
    assert {"Loss", "get", *(ours.__name__ for ours in classes.CLASSES.values())} == set(classes.__all__)
    for name, ours in classes.CLASSES.items():
        theirs = getattr(keras.losses, ours.__name__, None)
        assert theirs is not None or name == "softmax_loss", name
        assert theirs is None or arguments(ours) == arguments(theirs), name


def arguments(kind):
    """Names, kinds and defaults; ours are annotated."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(kind).parameters.values()]


def numbers_are_those_of_keras(keras, classes):
    """Every class, reduction, with and without weights and mask, labels to ignore, one more axis."""
    from keras.src.backend import set_keras_mask

    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 5, 4)).astype("f4"), rng.integers(0, 4, (6, 5))
    prob = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weight, mask = rng.random((6, 5)).astype("f4"), rng.random((6, 5)) > 0.3
    variants = {
        "SparseCategoricalCrossentropy": ({}, {"ignore_class": 1}, {"from_logits": True, "ignore_class": 7}),
        "BinaryCrossentropy": ({"from_logits": True, "label_smoothing": 0.2},),
        "CategoricalCrossentropy": ({}, {"axis": 1}),
        "CategoricalGeneralizedCrossEntropy": ({}, {"q": 0.25}),
        "Dice": ({}, {"axis": (1, 2)}, {"axis": -1}),
        "Tversky": ({"alpha": 0.25, "beta": 0.75}, {"axis": (1, 2)}),
    }
    for ours in classes.CLASSES.values():
        theirs = getattr(keras.losses, ours.__name__, None)
        for parameters in variants.get(ours.__name__, ({},)) if theirs else ():
            for reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", None):
                for pair in ((None, None), (weight, None), (None, mask), (weight, mask)):
                    part = slice(4 if parameters.get("axis") == 1 else None)
                    w, m = (None if x is None else x[:, part] for x in pair)
                    if ours.__name__ in ("Dice", "Tversky"):
                        if m is not None:  # see masks_take_elements_out_of_sets
                            continue
                        w = w[:, 0] if w is not None and parameters.get("axis") == (1, 2) else w
                    t = labels if "Sparse" in ours.__name__ or "Generalized" in ours.__name__ else np.eye(4, dtype="f4")[labels]
                    p = keras.ops.convert_to_tensor(logits if parameters.get("from_logits") else prob)
                    set_keras_mask(p, None if m is None else keras.ops.convert_to_tensor(m))
                    own, other = (c(reduction=reduction, **parameters)(t, p, sample_weight=w) for c in (ours, theirs))
                    own, other = keras.ops.convert_to_numpy(own), keras.ops.convert_to_numpy(other)
                    np.testing.assert_allclose(own, other, rtol=3e-5, err_msg=f"{ours.__name__} {reduction} {parameters}")


def masks_take_elements_out_of_sets(keras, classes):
    """A layer's mask hides steps, NaN included, from the set that they would be part of; a weight of 0 hides a set."""
    from keras.src.backend import set_keras_mask

    import polyloss as pl

    rng = np.random.default_rng(0)
    t, p, mask = rng.integers(0, 2, (3, 4, 2)).astype("f4"), rng.random((3, 4, 2)).astype("f4"), rng.random((3, 4)) < 0.6
    p[~mask] = np.nan
    for ours, function in ((classes.Dice, pl.dice), (classes.Tversky, pl.tversky)):
        hidden = keras.ops.convert_to_tensor(p)
        set_keras_mask(hidden, keras.ops.convert_to_tensor(mask))
        whole = keras.ops.convert_to_numpy(ours()(t, hidden))
        np.testing.assert_allclose(whole, function(t[mask], p[mask]), rtol=1e-6)
        each = keras.ops.convert_to_numpy(ours(axis=(1, 2), reduction=None)(t, hidden))
        np.testing.assert_allclose(each, [function(t[k][mask[k]], p[k][mask[k]]) for k in range(3)], rtol=1e-6)
        bad = p.copy()
        bad[1] = np.nan
        bad[[0, 2]] = 0.25
        weighted = keras.ops.convert_to_numpy(ours(axis=(1, 2))(t, bad, sample_weight=np.array([[1.0], [0.0], [2.0]])))
        right = (function(t[0], bad[0]) + 2 * function(t[2], bad[2])) / 3
        np.testing.assert_allclose(weighted, right, rtol=1e-6)


def softmax_loss_masks_and_weighs(keras, classes):
    """By hand: a mean counts neither ignored nor hidden positions, and a NaN behind weight 0 reaches nothing."""
    z = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [np.nan, 0.0, 0.0], [0.0, 0.0, 3.0]], "f4")
    y, w = np.array([0.0, 255.0, 1.0, 2.0], "f4"), np.array([1.0, 1.0, 0.0, 3.0], "f4")
    k = np.array([1.0, 2.0, 0.5])
    ce = np.log(np.exp(z.astype("f8")).sum(1)) - z[np.arange(4), [0, 0, 1, 2]]
    total = 1 * k[0] * ce[0] + 3 * k[2] * ce[3]
    for reduction, divisor in (("sum_over_batch_size", 3), ("mean_with_sample_weight", 4), ("sum", 1)):
        loss = classes.SoftmaxLoss(ignore_label=255, class_weight=k, reduction=reduction)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(loss(y, z, sample_weight=w)), total / divisor, rtol=1e-6)
    planes = classes.SoftmaxLoss(axis=1)(np.zeros((2, 4)), np.zeros((2, 3, 4), "f4"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(planes), np.log(3), rtol=1e-6)


def labels_stay_whole_numbers(keras, classes):
    """Under bfloat16, where Keras makes 256 of 257."""
    z = np.zeros((1, 300), "f4")
    z[0, 257] = 8
    loss = classes.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16")(np.array([257]), z)
    assert keras.backend.standardize_dtype(loss.dtype) == "bfloat16"
    assert float(keras.ops.cast(loss, "float32")) < 0.2


def what_is_refused(keras, classes):
    for wrong, message in (
        (lambda: classes.Loss("log_loss"), "loss is 'log_loss', but must be a loss of polyloss"),
        (lambda: classes.get("huber", dleta=2.0), "dleta"),
        (lambda: classes.Loss("huber", dleta=2.0), "huber has no parameter 'dleta'"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


def models_come_back_with_our_losses(keras, classes):
    import polyloss as pl

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 4)).astype("f4"), rng.integers(0, 3, 32)
    losses = (
        classes.SoftmaxLoss(ignore_label=2, class_weight=[1, 2, 3]),
        classes.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, reduction="sum"),
        classes.get("poly1", poly_epsilon=2.0),
        pl.get("scce", from_logits=True),
        classes.CategoricalGeneralizedCrossEntropy(q=0.25),
    )
    with tempfile.TemporaryDirectory() as folder:
        for i, loss in enumerate(losses):
            activation = "softmax" if isinstance(loss, classes.CategoricalGeneralizedCrossEntropy) else None
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])
            model.compile(loss=loss, optimizer="sgd")
            model.fit(x, y, epochs=1, verbose=0, class_weight={0: 1.0, 1: 2.0, 2: 0.5})
            model.save(Path(folder, f"{i}.keras"))
            again = keras.models.load_model(Path(folder, f"{i}.keras"))
            assert type(again.loss) is type(loss), again.loss
            assert again.loss.get_config() == loss.get_config()
            assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
        for loss in (classes.Dice(axis=(1, 2)), classes.Tversky(alpha=0.25, axis=(1, 2))):
            model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
            model.compile(loss=loss, optimizer="sgd")
            images, sets = rng.random((8, 4, 4, 1)).astype("f4"), rng.integers(0, 2, (8, 4, 4, 1))
            model.fit(images, sets, sample_weight=np.linspace(0, 1, 8), epochs=1, verbose=0)
            model.save(Path(folder, f"{loss.name}.keras"))
            again = keras.models.load_model(Path(folder, f"{loss.name}.keras"))
            assert type(again.loss) is type(loss)
            assert again.loss.get_config() == loss.get_config()
            assert again.evaluate(images, sets, verbose=0) == model.evaluate(images, sets, verbose=0)
        # A process that imports polyloss.keras and nothing else of polyloss.
        load = "import sys, keras, polyloss.keras\nassert all(keras.models.load_model(path).loss for path in sys.argv[1:])"
        command = [sys.executable, "-c", load, *(str(path) for path in sorted(Path(folder).iterdir()))]
        subprocess.run(command, check=True, timeout=300)


def histories_are_those_of_keras(keras, classes, x, y, weight):
    pairs = (
        (classes.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy, {"ignore_class": 3}),
        (classes.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy, {"reduction": "mean_with_sample_weight"}),
    )
    for ours, theirs, parameters in pairs:
        own, other = (history(keras, c(**parameters), x, y, weight) for c in (ours, theirs))
        np.testing.assert_allclose(own, other, rtol=2e-5)


CHECKS = {
    f.__name__: f
    for f in (
        constructors_are_those_of_keras,
        numbers_are_those_of_keras,
        masks_take_elements_out_of_sets,
        softmax_loss_masks_and_weighs,
        labels_stay_whole_numbers,
        what_is_refused,
        models_come_back_with_our_losses,
        histories_are_those_of_keras,
    )
}


def main():
    import keras
    from sklearn.datasets import load_digits

    import polyloss as pl
    import polyloss.keras as classes

    x, labels = load_digits(return_X_y=True)
    steps = (x[:128] / 16).astype(np.float32).reshape(-1, 8, 8).transpose(0, 2, 1)  # columns of an image: empty ones are masked
    assert not steps.any(axis=2).all()
    labels = np.repeat(labels[:128, None], 8, axis=1)
    weight = np.linspace(0, 2, labels.size, dtype=np.float32).reshape(labels.shape)
    for name in NAMES:
        y = labels if name.startswith("sparse") else np.eye(10, dtype=np.float32)[labels]
        own, theirs = (history(keras, loss, steps, y, weight) for loss in (pl.get(name), keras.losses.get(KERAS.get(name, name))))
        np.testing.assert_allclose(own, theirs, rtol=2e-5)
        sys.stdout.write(name + "\n")
    for name, check in CHECKS.items():
        check(keras, classes, *((steps, labels, weight) if name.startswith("histories") else ()))
        sys.stdout.write(name + "\n")


if __name__ == "__main__":
    main()
