"""The rules of docs/design.md: layers of imports, one table of losses, light imports, one block a loss."""

import ast
import graphlib
import inspect
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import mpmath as mp
import numpy as np
import oracle
import pytest
import test_laws as laws
from libraries import JAX, LIBRARIES
from numpydoc.docscrape import FunctionDoc
from oracle import CASES, Case

import polyloss as pl
from polyloss._call.call import call
from polyloss._core import backends
from polyloss._core.block import LOSSES, Elementwise, public
from polyloss._core.params import positive

ROOT = Path(__file__).resolve().parents[1]

# ------------------------------------------------------------------------------------------------------------------- layers


def test_modules_import_from_their_own_layer_or_below():
    """The modules are those of the table in docs/design.md, and none imports from above, or in a circle."""
    section = (ROOT / "docs/design.md").read_text("utf-8").partition("## Layers")[2].partition("\n## ")[0]
    table = re.findall(r"^\| [\w ]+ \| (`.*?`) \|", section, re.MULTILINE)
    layer = {module: height for height, modules in enumerate(reversed(table)) for module in re.findall(r"`([\w.]+)`", modules)}
    package = Path(pl.__file__).parent
    assert set(modules_of(package)) == set(layer)
    graph = {module: imported(path, layer) - {module} for module, path in modules_of(package).items()}
    assert sum(map(len, graph.values())) > 150
    graphlib.TopologicalSorter(graph).prepare()
    assert not [(module, other) for module, others in graph.items() for other in others if layer[other] > layer[module]]


WHOLE = ("_command", "_demo", "_kernels")  # folders whose modules the table does not name


def modules_of(package):
    """Module, with its folder, -> file."""
    modules = {}
    for path in package.rglob("*.py"):
        folder, *inner = path.relative_to(package).with_suffix("").parts
        if folder in WHOLE:
            modules[folder] = package / folder / "__init__.py"
        elif inner != ["__init__"] or folder == "metrics":
            modules[".".join([folder, *inner]).removesuffix(".__init__")] = path
    return {module: path for module, path in modules.items() if module != "__init__"}


def imported(path, layer):
    """Modules of the table that a file imports, at its top or within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "polyloss":
            inside = node.module.split(".")[1:]
            names |= {".".join([*inside, alias.name]) for alias in node.names} | {".".join(inside)} | {*WHOLE} & {*inside[:1]}
    return names & set(layer)


def test_adapters_alone_import_array_libraries():
    """They, and the two public modules with a library's name. (CuPy needs no adapter; what launches the kernels on a GPU needs CuPy.)"""
    package, libraries = Path(pl.__file__).parent, ("torch", "jax", "dask", "distributed", "keras")
    found = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).with_suffix("").as_posix()
        if not name.startswith(("_adapters/", "_command/", "_demo/")) and name not in ("torch", "keras"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
                found |= {(name, x.partition(".")[0]) for x in names} & {(name, x) for x in libraries}
    assert found == {("_core/reduce", "jax")}, "which asks whether JAX has float64"


def test_what_to_read_to_follow_a_call_is_there():
    """Each file of the tables in docs/design.md has the functions that they name."""
    section = (ROOT / "docs/design.md").read_text("utf-8").partition("## What happens in a call")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w/.]+)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) > 15
    for file, functions in rows:
        path = ROOT / "src" / "polyloss" / file
        if not path.exists():  # beside an installed wheel
            pytest.skip("there are no sources beside the tests")
        defined = re.findall(r"^ *(?:class|def|cdef)\b[^=(:]*?\b(\w+)[(:]", path.read_text("utf-8"), re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", functions)) - {"Bound"} <= set(defined), file


# --------------------------------------------------------------------------------------------------------- one table of losses

ALIASES = {  # the contract
    "mean_squared_error": "mse MeanSquaredError",
    "mean_absolute_error": "mae MeanAbsoluteError",
    "mean_absolute_percentage_error": "mape MeanAbsolutePercentageError",
    "mean_squared_logarithmic_error": "msle MeanSquaredLogarithmicError",
    "hinge": "Hinge",
    "squared_hinge": "SquaredHinge",
    "categorical_hinge": "CategoricalHinge",
    "binary_crossentropy": "bce logloss LogLoss BinaryCrossentropy",
    "categorical_crossentropy": "cce CategoricalCrossentropy",
    "sparse_categorical_crossentropy": "scce sparse_categorical_crossentrop SparseCategoricalCrossentropy",
    "kl_divergence": "kld kullback_leibler_divergence KLDivergence",
    "cosine_similarity": "cosine cosine_proximity CosineSimilarity",
    "huber": "Huber",
    "log_cosh": "logcosh LogCosh",
    "poisson": "Poisson poisson_nll PoissonNLLLoss",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "poly1_crossentropy": "poly1 Poly1Crossentropy",
    "softmax_loss": "softmax_with_loss SoftmaxWithLoss softmax_cross_entropy",
    "smooth_l1": "SmoothL1",
    "pseudo_huber": "PseudoHuber",
    "quantile_loss": "pinball mean_pinball_loss QuantileLoss",
    "poisson_deviance": "mean_poisson_deviance PoissonDeviance",
    "gamma_deviance": "mean_gamma_deviance GammaDeviance",
    "tweedie_deviance": "mean_tweedie_deviance TweedieDeviance",
    "exponential": "ExponentialLoss",
    "logistic": "soft_margin SoftMarginLoss",
    "brier": "brier_score BrierScore",
    "multiclass_hinge": "crammer_singer multi_margin MultiMarginLoss",
    "generalized_crossentropy": "categorical_generalized_cross_entropy CategoricalGeneralizedCrossEntropy",
    "gaussian_nll": "GaussianNLLLoss",
    "dice": "Dice",
    "tversky": "Tversky",
    "jaccard": "iou Jaccard",
    "log_loss": "",
}


def test_names_are_the_table_and_the_exports():
    assert set(ALIASES) == {*LOSSES, "log_loss"} == set(pl.names())
    assert list(pl.names()) == sorted(pl.names())
    assert {name for name in pl.__all__ if name in ALIASES} == set(ALIASES)
    for name, block in LOSSES.items():
        assert getattr(pl, name) is block.function is pl.get(name)
        assert block.name == block.function.__name__ == name
    assert sorted(pl.__all__) == [name for name in sorted(pl.__all__) if hasattr(pl, name)]


@pytest.mark.parametrize("name", ALIASES)
def test_aliases_in_any_case(name):
    for alias in (name, *ALIASES[name].split()):
        assert pl.get(alias) is getattr(pl, name)
        if alias != "log_loss":
            for other in (alias.upper(), alias.lower(), alias.title(), alias.replace("_", "")):
                assert pl.get(other).__name__ == ("binary_crossentropy" if other.lower() == "logloss" else name)


def test_an_exact_name_wins_before_case_is_dropped():
    assert pl.get("log_loss") is pl.log_loss
    for name in ("logloss", "LogLoss", "LOGLOSS", "Log_Loss"):
        assert pl.get(name) is pl.binary_crossentropy
    assert pl.get(other := (lambda: None)) is other


def test_every_loss_has_cases_and_a_definition_of_its_own():
    assert {case.loss for case in CASES} == set(oracle.DEFINITIONS) == set(LOSSES)
    for name, block in LOSSES.items():
        asked = {parameter for case in CASES if case.loss == name for parameter in case.params}
        assert set(block.params) <= asked, f"no case of {name} sets {set(block.params) - asked}"


@pytest.mark.parametrize("name", LOSSES)
def test_signatures_have_one_order_and_defaults(name):
    """(y_true, predictions, *, <parameters>, axis, sample_weight, reduction, validate), keywords only but for the two arrays."""
    parameters = inspect.signature(getattr(pl, name)).parameters
    assert list(parameters)[:2] == ["y_true", LOSSES[name].predictions]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])
    if name != "softmax_loss":
        sets = LOSSES[name].sets
        assert list(parameters)[2:] == [*LOSSES[name].params, "axis", *["mask"] * sets, "sample_weight", "reduction", "validate"]
        defaults = {key: parameters[key].default for key in ("axis", "sample_weight", "reduction", "validate")}
        assert defaults == {"axis": None if sets else -1, "sample_weight": None, "reduction": "none", "validate": True}
    else:
        assert list(parameters)[2:] == [
            "axis", "ignore_label", "normalization", "normalize", "class_weight", "sample_weight", "label_smoothing", "z_loss", "softcap",
            "denominator", "reduction", "return_prob", "validate",
        ]  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_docstrings_say_parameters_returns_errors_and_source(name):
    function = getattr(pl, name)
    doc = FunctionDoc(function)
    described = [part.strip() for p in doc["Parameters"] for part in p.name.split(",")]
    assert described == list(inspect.signature(function).parameters)
    assert all("".join(p.desc).strip() for p in doc["Parameters"])
    assert doc["Returns"]
    assert {error.type for error in doc["Raises"]} >= {"ValueError", "TypeError"}
    assert doc["References"] or "Keras" in function.__doc__, "no source"
    assert doc["Examples"]
    assert "nats" in function.__doc__ or name not in SAYS_NATS


SAYS_NATS = [name for name in ALIASES if "entropy" in name or name in ("softmax_loss", "log_loss", "kl_divergence", "poisson")]

# -------------------------------------------------------------------------------------------------------------------- imports

MODULES = "import json, sys, time; t = time.perf_counter(); {}; print(json.dumps([time.perf_counter() - t, sorted(sys.modules)]))"


def modules_after(statement):
    done = subprocess.run([sys.executable, "-c", MODULES.format(statement)], check=True, capture_output=True, text=True, timeout=120)
    seconds, names = json.loads(done.stdout)
    return seconds, set(names)


def test_import_loads_no_other_array_library(record_property):
    _, before = modules_after("import numpy, array_api_compat")
    seconds, after = modules_after("import numpy; t = time.perf_counter(); import polyloss")
    added = {name.partition(".")[0] for name in after - before} - set(sys.stdlib_module_names)
    assert {name for name in added if "cython" not in name} <= {"polyloss", "array_api_compat"}
    assert "array_api_compat.numpy" not in after  # a tenth of a second
    record_property("import_over_numpy_ms", round(1000 * seconds))
    print(f"import polyloss costs {1000 * seconds:.0f} ms over import numpy")  # noqa: T201


def test_numpy_calls_load_no_other_array_library():
    _, before = modules_after("import numpy, array_api_compat")
    _, after = modules_after(
        "import numpy as np, polyloss as pl; pl.value_and_grad('mse')(np.zeros(3), np.ones(3)); pl.softmax_loss([0], [[1.0, 2.0]]);"
        " pl.log_loss([0, 1], [0.25, 0.5]); pl.explain('mse', [1.0], [2.0])")  # fmt: skip
    added = {name.partition(".")[0] for name in after - before} - set(sys.stdlib_module_names)
    assert {name for name in added if "cython" not in name} <= {"polyloss", "array_api_compat", "numpy"}


def test_no_module_hides_another():
    """Folders whose modules tests import by a bare name: of two of one name, the second import would find the first."""
    folders = [ROOT / "tests", ROOT / "tests" / "cuda_on_cpu", ROOT / "tests" / "fuzz", ROOT / "asv_bench", ROOT / "docs"]
    names = [path.stem for folder in folders for path in folder.glob("*.py")]
    assert len(names) > 30
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


# ------------------------------------------------------------------------------------------------------------ adding a loss


def test_a_new_loss_is_one_block_and_one_export(monkeypatch):
    """Names, gradients, every library, weights and reductions come with it."""

    class Cauchy(Elementwise):
        """log(1 + (d/scale)²), d = p - t."""

        aliases = ("lorentzian",)
        params = {"scale": positive}

        def value(xp, t, p, scale):
            return xp.log1p(((p - t) / scale) ** 2)

        def slope(xp, t, p, scale):
            return 2 * (p - t) / (scale * scale + (p - t) ** 2)

        def curvature(xp, t, p, scale):
            d = (p - t) ** 2
            return 2 * (scale * scale - d) / (scale * scale + d) ** 2

    @public(Cauchy)
    def cauchy(y_true, y_pred, *, scale=1.0, axis=-1, sample_weight=None, reduction="none", validate=True):
        return call(Cauchy, y_true, y_pred, {}, scale=scale, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)

    from polyloss import registry

    registry._exact_names.cache_clear()
    registry._loose_names.cache_clear()
    assert pl.get("Lorentzian") is pl.get("cauchy") is cauchy
    assert "cauchy" in pl.names()
    monkeypatch.setitem(oracle.DEFINITIONS, "cauchy", lambda t, p, dtype, scale=1.0: oracle.mean(
        mp.log(1 + ((b - a) / mp.mpf(scale)) ** 2) for a, b in zip(t, p, strict=True)))  # fmt: skip
    case = Case("cauchy", "real", "real", {"scale": 0.5}, function=cauchy)
    for lib in LIBRARIES:
        for law in (laws.test_slope_is_the_truth, laws.test_curvature_is_the_truth, laws.test_weight_0_is_as_if_it_was_not_there,
                    laws.test_reductions_are_consistent, laws.test_results_keep_library_dtype_device_and_shape):  # fmt: skip
            law(case, lib)
    laws.test_torch_autograd_gives_the_slope_and_the_curvature(case)
    laws.test_jax_grad_gives_the_slope_and_the_curvature(case)
    with pytest.raises(ValueError, match="scale is 0, but must be above 0"):
        cauchy(np.zeros(3), np.zeros(3), scale=0)
    said = pl.explain("lorentzian", np.zeros(3), np.ones(3))
    assert said.route == "formula"
    assert JAX.is_array(pl.grad("cauchy")(JAX.array(np.zeros(3)), JAX.array(np.ones(3))))


def test_a_library_has_one_row_though_its_adapter_asks_for_it_while_it_is_imported(monkeypatch):
    """An adapter may ask whose an array is as it is imported: two rows of one library would not be each other's arrays."""
    module = types.ModuleType("polyloss_test_adapter")
    row = backends.Backend("test", lambda x: False, adapter=module.__name__)
    found = []

    def imported(name):
        assert name == module.__name__
        monkeypatch.setattr(backends, "import_module", lambda name: module)
        found.append(row.loaded())
        return module

    monkeypatch.setattr(backends, "import_module", imported)
    assert row.loaded() is found[0] is row.loaded()
    del backends._loaded[row]
