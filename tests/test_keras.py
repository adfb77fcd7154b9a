"""Keras 3 on JAX and on PyTorch: losses by name, fitted to scikit-learn's digits with masks and weights; the history is Keras' own.

The backend of Keras is chosen once in a process, so each backend is a run of this file as a script.
"""

import os
import subprocess
import sys

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
    assert done.stdout.split() == list(NAMES)


def history(keras, loss, x, y, weight):
    """The losses of two epochs of a small network whose mask hides steps, the same first weights each time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8)), keras.layers.Masking(), keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer="sgd", loss=loss)
    return model.fit(x, y, sample_weight=weight, batch_size=64, epochs=2, shuffle=False, verbose=0).history["loss"]


def main():
    import keras
    from sklearn.datasets import load_digits

    import polyloss as pl

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


if __name__ == "__main__":
    main()
