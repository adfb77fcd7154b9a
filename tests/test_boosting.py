"""Objectives for XGBoost and LightGBM: the trees are those of the built-in objectives, from the same start."""

import pickle
import re

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from sklearn import datasets

import polyloss as pl
from polyloss import boosting
from polyloss._core.block import LOSSES

BINARY, CLASSES, VALUES = (f(return_X_y=True) for f in (datasets.load_breast_cancer, datasets.load_digits, datasets.load_diabetes))
CLASSES = CLASSES[0][:600], CLASSES[1][:600]
COUNTS, POSITIVE = (VALUES[0], np.round(VALUES[1] / 40)), (VALUES[0], VALUES[1] / 100)
XGBOOST = {
    "binary:logistic": ("bce", {"from_logits": True}, BINARY, {}),
    "multi:softprob": ("softmax_loss", {}, CLASSES, {"num_class": 10}),
    "reg:squarederror": ("mse", {}, VALUES, {}),
    "reg:squaredlogerror": ("msle", {}, POSITIVE, {}),
    "count:poisson": ("poisson", {}, COUNTS, {"max_delta_step": 0.7}),
    "reg:gamma": ("gamma_deviance", {}, POSITIVE, {}),
    "reg:tweedie": ("tweedie_deviance", {"power": 1.5}, COUNTS, {"tweedie_variance_power": 1.5}),
    "reg:pseudohubererror": ("pseudo_huber", {"delta": 1.0}, POSITIVE, {}),
}
LIGHTGBM = {
    "binary": ("bce", {"from_logits": True}, BINARY, {}),
    "multiclass": ("scce", {"from_logits": True}, CLASSES, {"num_class": 10}),
    "regression": ("mse", {}, VALUES, {}),
    "huber": ("huber", {"delta": 0.9}, COUNTS, {"alpha": 0.9}),
    "poisson": ("poisson", {}, COUNTS, {}),
    "gamma": ("gamma_deviance", {}, POSITIVE, {}),
    "tweedie": ("tweedie_deviance", {"power": 1.5}, COUNTS, {"tweedie_variance_power": 1.5}),
}
NOT_RAW = (
    "cosine_similarity", "kl_divergence", "dice", "tversky", "jaccard", "brier", "gaussian_nll", "generalized_crossentropy",
)  # fmt: skip
RAW = [name for name in LOSSES if name not in NOT_RAW]


def weights(y, weighted):
    return (np.random.default_rng(0).random(len(y)) + 0.5).astype(np.float32) if weighted else None


def same_trees(a, b):
    """Each tree parts the rows in the same way. Leaf of each row and tree; two features may part them alike, so that splits don't tell."""
    assert a.shape == b.shape
    for x, y in zip(a.reshape(len(a), -1).T, b.reshape(len(b), -1).T, strict=True):
        assert len(np.unique(x)) == len(np.unique(y)) == len(np.unique(np.stack([x, y]), axis=1).T)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", XGBOOST)
def test_trees_of_xgboost(name, weighted):
    loss, parameters, (x, y), more = XGBOOST[name]
    w = weights(y, weighted)
    objective = boosting.xgboost(loss, **parameters)
    data = xgb.DMatrix(x, y, weight=w)
    settings = {"objective": name, "max_depth": 4, "eta": 0.3, "nthread": 1, **more}
    start = objective.start(y, w)
    theirs = xgb.train(settings, data, 8)
    ours = xgb.train({**settings, "base_score": start.tolist() if isinstance(start, np.ndarray) else start}, data, 8, obj=objective)
    same_trees(*(m.predict(data, pred_leaf=True) for m in (theirs, ours)))
    margin = theirs.predict(data, output_margin=True)
    np.testing.assert_allclose(ours.predict(data, output_margin=True), margin, rtol=0, atol=5e-6 * np.abs(margin).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LIGHTGBM)
def test_trees_of_lightgbm(name, weighted):
    loss, parameters, (x, y), more = LIGHTGBM[name]
    w = weights(y, weighted)
    objective = boosting.lightgbm(loss, **parameters)
    settings = {"num_leaves": 15, "verbose": -1, "num_threads": 1, "deterministic": True, "min_data_in_leaf": 5, "seed": 0, **more}
    start = objective.start(y, w)
    init = np.tile(start, (len(y), 1)) if np.ndim(start) else np.full(len(y), start)
    theirs = lgb.train({**settings, "objective": name}, lgb.Dataset(x, y, weight=w, params={"verbose": -1}), 8)
    ours = lgb.train({**settings, "objective": objective}, lgb.Dataset(x, y, weight=w, init_score=init, params={"verbose": -1}), 8)
    same_trees(*(m.predict(x, pred_leaf=True) for m in (theirs, ours)))
    # The built-in's first tree holds the start.
    raw = theirs.predict(x, raw_score=True)
    np.testing.assert_allclose(ours.predict(x, raw_score=True) + start, raw, atol=1e-5 * np.abs(raw).max())


@pytest.mark.parametrize("weighted", [False, True])
def test_estimators_of_scikit_learn(weighted):
    x, y = VALUES
    w = weights(y, weighted)
    ours, theirs = boosting.xgboost("mse"), "reg:squarederror"
    settings = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1, "base_score": ours.start(y, w)}
    a, b = (xgb.XGBRegressor(objective=o, **settings).fit(x, y, sample_weight=w).predict(x) for o in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-5)

    objective = boosting.lightgbm("mse")
    settings = {"n_estimators": 5, "n_jobs": 1, "verbose": -1, "boost_from_average": False}
    a, b = (lgb.LGBMRegressor(objective=o, **settings).fit(x, y, sample_weight=w).predict(x) for o in (objective, "regression"))
    np.testing.assert_allclose(a, b, rtol=1e-5)

    x, y = CLASSES
    w = weights(y, weighted)
    settings = {"n_estimators": 3, "n_jobs": 1, "verbose": -1, "boost_from_average": False}
    objective = boosting.lightgbm("scce", from_logits=True)
    a = lgb.LGBMClassifier(objective=objective, **settings).fit(x, y, sample_weight=w).predict(x, raw_score=True)
    b = lgb.LGBMClassifier(**settings).fit(x, y, sample_weight=w).predict(x, raw_score=True)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_start_in_both_units():
    y = np.array([0.0, 1.0, 1.0, 1.0])
    of_xgboost, of_lightgbm = boosting.xgboost("bce", from_logits=True), boosting.lightgbm("bce", from_logits=True)
    assert of_xgboost.start(y) == 0.75
    assert of_lightgbm.start(y) == of_xgboost.start(y, raw=True) == pytest.approx(np.log(3))
    assert of_xgboost.start(y, [3.0, 1.0, 1.0, 1.0]) == 0.5
    assert boosting.lightgbm("mae").start([5.0, 1.0, 2.0], [1.0, 1.0, 3.0]) == 2.0
    # Where no built-in is the model: the constant of least loss.
    start = boosting.lightgbm("log_cosh").start(VALUES[1])
    around = [pl.log_cosh(VALUES[1], np.full_like(VALUES[1], c)) for c in (start - 1e-3, start, start + 1e-3)]
    assert around[1] < min(around[0], around[2])
    with pytest.raises(ValueError, match="y_true has 0 targets"):
        of_xgboost.start([])


@pytest.mark.parametrize("library", [boosting.xgboost, boosting.lightgbm])
@pytest.mark.parametrize("name", RAW)
def test_every_hessian_is_positive(name, library):
    """For every loss that takes raw scores of one number or one per class; the objective pickles, and weights scale."""
    block = LOSSES[name]
    parameters = {"from_logits": True} if "from_logits" in block.params else {}
    objective = pickle.loads(pickle.dumps(library(name, **parameters)))
    rng = np.random.default_rng(0)
    for scale in (1.0, 30.0):
        several = block.combine is None
        scores = rng.normal(0, scale, (50, 4) if several else 50)
        y = rng.integers(0, 4, 50) if several else rng.integers(0, 2, 50) + float(name == "gamma_deviance")  # whose targets are positive
        if several and block.targets == "dense":
            y = np.eye(4)[y]
        w = rng.random(50)
        gradient, hessian = objective(y, scores)
        assert gradient.shape == hessian.shape == scores.shape
        assert np.isfinite(gradient).all()
        assert (hessian >= 0).all()
        assert (hessian[np.abs(gradient) > 0] > 0).all()
        heavy = objective(y, scores, w)
        np.testing.assert_allclose(heavy[0], gradient * w.reshape(-1, *(1,) * (scores.ndim - 1)), rtol=1e-6, atol=1e-12)


def test_what_is_refused():
    for library in (boosting.xgboost, boosting.lightgbm):
        with pytest.raises(ValueError, match=r"binary_crossentropy takes probabilities.*pass from_logits=True"):
            library("bce")
        with pytest.raises(TypeError, match="huber has no parameter 'dleta'"):
            library("huber", dleta=1.0)
        with pytest.raises(TypeError, match="sample_weight is given, but the booster"):
            library("mse", sample_weight=[1.0])
        with pytest.raises(TypeError, match="log_loss is a metric"):
            library("log_loss")


@pytest.mark.parametrize("name", LOSSES)
def test_hints_name_what_the_booster_takes(name):
    """Of a parameter that a loss lacks, and of one that resembles what the booster decides."""
    decided = {"sample_weight", "reduction", "normalization", "normalize", "return_prob", "denominator"}
    for key in ("wat", "weight", "weights", "size_average", *(word + "s" for word in decided)):
        with pytest.raises(TypeError, match=f"{name} has no parameter '{key}'; ") as caught:
            boosting.xgboost(name, **{key: 1})
        assert decided.isdisjoint(re.findall(r"\w+", str(caught.value).partition("; ")[2]))
