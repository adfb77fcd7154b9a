"""One page of the documentation per loss, made from its block: every number, figure and route on it is computed while the page is made."""

import inspect

import array_api_compat
import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np

import polyloss as pl
from polyloss import _demo
from polyloss._block import LOSSES, Block, Elementwise, OfLogSoftmax, OfShares, Rowwise
from polyloss._kernels.gpu import cuda

DTYPES = ("float16", "bfloat16", "float32", "float64")

PAGE = """\
# {name}

```{{eval-rst}}
.. currentmodule:: polyloss
.. autofunction:: {name}
```

`pl.get` also finds it as {aliases}, in any case. Predictions and targets: {domain}. Where other libraries differ stands in
[Edge cases](../semantics.md), how exact it is in [Accuracy](accuracy.md).

## Worked examples

By hand and tested: the loss and its gradient for one sample.

{worked}

## Value and gradient

```{{eval-rst}}
.. plot::
   :alt: {name} and its gradient over the first prediction of each worked example

   import loss_pages

   loss_pages.draw("{name}")
```

The worked examples with their first prediction varied; the dots are the examples themselves.

## Formula

What runs on every array library, and what the kernels are tested against: the value and its derivatives by the prediction.

{sources}

## Where it runs

Which compiled kernel takes 899 × 10 predictions, by their array library and dtype; "formula" stands for the library's own operations, an
empty cell for a dtype that it does not have. `pl.explain` says the same of a call of yours, and why.

{routes}
"""

INDEX = """\
# Losses

{groups}

```{{toctree}}
:hidden:

{pages}
```
"""


GROUP = """\
## {title}

| loss | of one sample |
|---|---|
{rows}
"""

# By what the predictions are; every loss of the registry stands in one group.
GROUPS = {
    "Regression": (
        "mean_squared_error", "mean_absolute_error", "huber", "smooth_l1", "pseudo_huber", "log_cosh", "quantile_loss",
        "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "poisson", "poisson_deviance", "gamma_deviance",
        "tweedie_deviance", "gaussian_nll", "cosine_similarity",
    ),
    "Probabilities": (
        "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy",
        "categorical_focal_crossentropy", "generalized_crossentropy", "brier", "kl_divergence",
    ),
    "Logits": ("softmax_loss", "poly1_crossentropy"),
    "Margins": (
        "hinge", "squared_hinge", "categorical_hinge", "multiclass_hinge", "logistic", "exponential",
    ),
    "Sets": ("dice", "jaccard", "tversky"),
}  # fmt: skip
BESIDE = {"Logits": ("linear_softmax_loss",), "Metrics": ("log_loss",)}  # without a block, and so without a page of their own


def groups():
    """The sections of the index."""
    listed = [name for names in GROUPS.values() for name in names]
    if sorted(listed) != sorted(LOSSES):
        raise AssertionError(f"GROUPS must name every loss once: {sorted(set(LOSSES) ^ set(listed)) or 'one stands there twice'}")
    sections = []
    for title in dict.fromkeys((*GROUPS, *BESIDE)):
        links = [(name, f"{name}.md") for name in GROUPS.get(title, ())]
        links += [(name, f"../reference.md#polyloss.{name}") for name in BESIDE.get(title, ())]
        rows = [f"| [{name}]({link}) | {inspect.getdoc(getattr(pl, name)).partition(chr(10))[0]} |" for name, link in links]
        note = "\nThe crossentropies of probabilities take logits too, with `from_logits=True`.\n" if title == "Logits" else ""
        sections.append(GROUP.format(title=title, rows="\n".join(rows)) + note)
    return "\n".join(sections)


def write(folder):
    """Write the pages and their index into `folder`."""
    folder.mkdir(exist_ok=True)
    for name, block in LOSSES.items():
        (folder / f"{name}.md").write_text(page(name, block), "utf-8")
    (folder / "index.md").write_text(INDEX.format(groups=groups(), pages="\n".join(LOSSES)), "utf-8")


def page(name, block):
    """The text of a page."""
    aliases = ", ".join(f"`{alias}`" for alias in block.aliases)
    blocks = [block, *(form for form in (block.logits, block.logarithms) if form)]
    return PAGE.format(name=name, aliases=aliases, domain=block.domain, worked=worked(block), routes=routes(name),
                       sources="\n\n".join(map(source, with_bases(blocks))))


def with_bases(blocks):
    """The blocks and what they inherit formulas from, each once."""
    own = [cls for block in blocks for cls in block.__mro__ if cls not in (Block, Elementwise, Rowwise, object)]
    return list(dict.fromkeys(sorted(own, key=lambda cls: cls in (OfLogSoftmax, OfShares))))


def source(cls):
    """The code of a block."""
    return f"```python\n{inspect.getsource(cls).rstrip()}\n```"


def worked(block):
    """The worked examples, evaluated by the public function."""
    rows = ["| y_true | y_pred | parameters | loss | gradient |", "|---|---|---|---|---|"]
    for example in block.worked:
        t, p, parameters = arguments(block, example)
        loss, gradient = pl.value_and_grad(block.name)(t, p, reduction="sum", axis=0, **parameters)
        if not np.allclose(loss, example["value"], rtol=1e-6) or not np.allclose(gradient, example["slope"], rtol=1e-6):
            raise AssertionError(f"{block.name}: the worked example {example} gives {loss}, {gradient}")
        shown = ", ".join(f"`{key}={value!r}`" for key, value in parameters.items())
        rows.append(f"| {numbers(example['t'])} | {numbers(example['p'])} | {shown} | {numbers(loss)} | {numbers(gradient)} |")
    return "\n".join(rows)


def arguments(block, example):
    """Targets, predictions and the parameters that are not the defaults, as the public function takes them; classes on axis 0."""
    signature = inspect.signature(block.function).parameters
    given = {key: value for key, value in example.items() if key not in ("t", "p", "value", "slope")}
    t, p = np.asarray(example["t"]), np.asarray(example["p"], dtype=np.float64)
    bare = (t.dtype.kind == "i" or block.targets == "values") and p.ndim  # targets without the axis of the predictions
    return t if bare else t.reshape(p.shape or 1), p.reshape(p.shape or 1), {k: v for k, v in given.items() if v != signature[k].default}


def numbers(x):
    """An array as text, without negative zeros."""
    return ", ".join(f"{v + 0.0:.6g}" for v in np.ravel(x))


def draw(name):
    """The loss and its gradient as functions of the first prediction of each worked example; logits in a row of their own."""
    block = LOSSES[name]
    examples = [(example, *arguments(block, example)) for example in block.worked]
    kinds = sorted({transformed(parameters) for *_, parameters in examples})
    _, rows = plt.subplots(len(kinds), 2, figsize=(8, 2.6 * len(kinds)), layout="constrained", squeeze=False)
    for (left, right), kind in zip(rows, kinds, strict=True):
        left.set(title="loss", xlabel=kind)
        right.set(title="gradient", xlabel=left.get_xlabel())
        for example, t, p, parameters in examples:
            if transformed(parameters) != kind:
                continue
            x = np.linspace(*span(block, p, kind), 401)
            varied, targets = np.repeat(p[:, None], len(x), axis=1), np.repeat(t[..., None], len(x), axis=-1)
            varied[0] = x
            losses = block.function(targets, varied, axis=0, reduction="none", **parameters)
            slopes = pl.grad(name)(targets, varied, axis=0, reduction="sum", **parameters)[0]
            label = ", ".join([f"y_true = {numbers(t)}", *(f"{key} = {value}" for key, value in parameters.items())])
            for axes, y, known in ((left, losses, example["value"]), (right, slopes, np.ravel(example["slope"])[0])):
                (curve,) = axes.plot(x, y, label=label)
                axes.plot(p[0], known, "o", color=curve.get_color())
        left.legend(frameon=False, fontsize=8)


def transformed(parameters):
    """What a call with these parameters takes its predictions for."""
    return "first logit" if parameters.get("from_logits") else "first logarithm" if parameters.get("log_input") else "first prediction"


def span(block, p, kind):
    """Where to draw: probabilities stay within (0, 1), positive numbers above 0; anything else around the example."""
    plain = kind == "first prediction"
    if plain and "probabilities" in block.domain:
        return 0.01, 0.99
    if plain and ("positive" in block.domain or " above " in block.domain):
        return 0.02, max(2.0, p[0] + 1)
    return p[0] - 4, p[0] + 4


def routes(name):
    """Which way a call takes, by array library and dtype, and by the form of the predictions."""
    labels, logits = _demo.digits()
    y_true, y_pred = _demo.arguments(name, labels, logits)
    libraries = [library for library in _demo.installed() if library.name not in ("CuPy", "torch, CUDA")]
    rows = [f"| predictions | {' | '.join(DTYPES)} |", "|---" * (1 + len(DTYPES)) + "|"]
    loss = LOSSES[name]
    for block, options in ((loss, {}), (loss.logits, {"from_logits": True}), (loss.logarithms, {"log_input": True})):
        if block is None:
            continue
        form = "".join(f", `{key}=True`" for key in options)
        for library in libraries:
            taken = [route(name, library, y_true, y_pred, dtype, options) for dtype in DTYPES]
            rows.append(f"| {library.name}{form} | {' | '.join(taken)} |")
        rows.append(f"| CuPy, torch on CUDA devices{form} {f'| {on_cuda(block)} ' * len(DTYPES)}|")
    return "\n".join(rows)


def route(name, library, y_true, y_pred, dtype, options):
    """The kernel that takes predictions of this dtype, or "formula"; nothing where the library does not have the dtype."""
    y_pred = library.asarray(y_pred)
    xp = array_api_compat.array_namespace(y_pred)
    own = {("NumPy", "bfloat16"): ml_dtypes.bfloat16, ("Dask", "float16"): np.float16}
    kind = own.get((library.name, dtype)) or getattr(xp, dtype, None)
    if kind is None:
        return ""
    return pl.explain(name, library.asarray(y_true), xp.astype(y_pred, kind), **options).route.removesuffix(" kernel")


def on_cuda(block):
    """Which kernel takes a block's jobs on a device."""
    return "softmax_xent" if block.kernel == "softmax_xent" else "elementwise" if block.kernel in cuda.formulas() else "formula"
