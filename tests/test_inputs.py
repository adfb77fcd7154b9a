"""What is taken as an array: whatever makes a NumPy array of itself; frames by the names of their columns; strict libraries."""

import array_api_strict
import h5py
import numpy as np
import pandas
import polars
import pytest
import zarr
from array_api_strict import ArrayAPIStrictFlags
from sklearn import metrics

import polyloss as pl
from polyloss._core.block import LOSSES

rng = np.random.default_rng(0)
P, LABELS = rng.dirichlet(np.ones(3), 5), np.array([0, 1, 2, 0, 1])


class Convertible:
    """An array as xarray's are: something that NumPy converts."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class Capsule:
    """An array that only hands over its memory."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize("name", LOSSES)
def test_whatever_becomes_an_array(name):
    block = LOSSES[name]
    t = LABELS if block.targets in ("labels", "either") else P[:, 0].copy() if block.targets == "values" else P
    loss = pl.get(name)
    p = P[:, :2].copy() if name == "gaussian_nll" else P
    expected = loss(t, p)
    for kind in (Convertible, Capsule):
        np.testing.assert_array_equal(loss(kind(t), kind(p)), expected)
        np.testing.assert_array_equal(loss(t, kind(p)), expected)
        np.testing.assert_array_equal(pl.grad(name)(kind(t), kind(p)), pl.grad(name)(t, p))


def test_data_sets_of_files(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"], file["logits"] = LABELS, P
        assert pl.softmax_loss(file["labels"], file["logits"]) == pl.softmax_loss(LABELS, P)
        assert pl.log_loss(file["labels"], file["logits"]) == pl.log_loss(LABELS, P)
    assert pl.softmax_loss(zarr.array(LABELS), zarr.array(P)) == pl.softmax_loss(LABELS, P)


def test_log_loss_of_convertible_arrays():
    for kind in (Convertible, Capsule):
        assert pl.log_loss(kind(LABELS), kind(P), sample_weight=kind(P[:, 0].copy())) == pl.log_loss(LABELS, P, sample_weight=P[:, 0])


@pytest.mark.parametrize("frame", [pandas.DataFrame, polars.DataFrame])
def test_columns_of_a_frame_go_by_name(frame):
    """Class_10 stands before Class_2 among sorted strings, and behind it in the files of a competition."""
    names = [f"Class_{i}" for i in range(1, 13)]
    y, p = rng.choice(names, 300), rng.dirichlet(np.ones(12), 300)
    table = frame(dict(zip(names, p.T, strict=True)))
    expected = metrics.log_loss(y, p[:, np.argsort(names)], labels=sorted(names))
    assert pl.log_loss(y, table) == pytest.approx(expected, rel=1e-12)
    assert pl.log_loss(y, table, labels=sorted(names)) == pytest.approx(expected, rel=1e-12)
    assert pl.log_loss(y, p[:, np.argsort(names)]) == pytest.approx(expected, rel=1e-12)
    # Numbers as names, and names that say nothing of the classes
    whole = frame({"2": P[:, 2], "0": P[:, 0], "1": P[:, 1]})
    assert pl.log_loss(LABELS, whole) == pytest.approx(pl.log_loss(LABELS, P), rel=1e-12)
    assert pl.log_loss(LABELS, frame({"a": P[:, 0], "b": P[:, 1], "c": P[:, 2]})) == pl.log_loss(LABELS, P)
    with pytest.raises(ValueError, match="y_proba has the column 'id', which is no class: 0, 1, 2; leave it out"):
        pl.log_loss(LABELS, frame({"id": P[:, 0], "0": P[:, 0], "1": P[:, 1], "2": P[:, 2]}))


def test_log_loss_without_shapes_that_depend_on_data():
    strict = array_api_strict.asarray
    many = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    with ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False):
        assert pl.log_loss(strict(LABELS), strict(P)) == pytest.approx(pl.log_loss(LABELS, P), rel=1e-15)
        assert pl.log_loss(strict(many), strict(P)) == pytest.approx(pl.log_loss(many, P), rel=1e-15)


@pytest.mark.parametrize("kind", ["int4", "uint4", "int2", "uint2"])
def test_labels_of_less_than_a_byte(kind):
    jnp = pytest.importorskip("jax.numpy")
    if not hasattr(jnp, kind):
        pytest.skip(f"this JAX has no {kind}")
    import jax

    labels, logits = np.array([0, 1, 1]), np.array([[1.0, 2.0], [0.5, 0.0], [3.0, 1.0]], np.float32)
    right = pl.softmax_loss(labels, logits)
    narrow = jnp.asarray(labels).astype(kind)
    for found in (pl.softmax_loss(narrow, jnp.asarray(logits)), pl.softmax_loss(np.asarray(narrow), logits)):
        np.testing.assert_allclose(found, right, rtol=1e-6)
    if not np.array_equal(jax.jit(lambda x: jnp.reshape(x.astype("int8"), (3, 1)))(narrow)[:, 0], labels):  # so it is with jaxlib 0.7.2
        pytest.skip(f"XLA of jaxlib {jax.lib.__version__} reads numbers of {kind} wrongly in a program")
    np.testing.assert_allclose(jax.jit(pl.softmax_loss)(narrow, jnp.asarray(logits)), right, rtol=1e-6)
