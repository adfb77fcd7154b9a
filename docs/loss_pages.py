"""One page of the documentation per loss, made from its block and its text: every number, figure and route is computed meanwhile."""

import inspect
import re

import array_api_compat
import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
from loss_texts import TEXTS

import polyloss as pl
from polyloss import _demo
from polyloss._core.block import LOSSES, Block, Elementwise, OfLogSoftmax, OfShares, Rowwise
from polyloss._kernels.gpu import cuda

DTYPES = ("float16", "bfloat16", "float32", "float64")

PAGE = """\
# {name}

{what}

```{{math}}
{formula}
```

{when}

`pl.get` also finds it as {aliases}, in any case. Predictions and targets: {domain}. What happens at the edges stands in
[Edge cases](../semantics.md), how exact it is in [Accuracy](accuracy.md), how fast in [Benchmarks](../benchmarks.md).
{same}
## Reference

```{{eval-rst}}
.. currentmodule:: polyloss
.. autofunction:: {name}
```

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

## Where it runs

Which compiled kernel takes 899 × 10 predictions, by their array library and dtype; "formula" stands for the library's own operations, an
empty cell for a dtype that it does not have. `pl.explain` says the same of a call of yours, and why.

{routes}

## Code

<details>
<summary>The formulas: what runs on every array library, and what the kernels are tested against</summary>

The value and its first and second derivative with respect to the predictions.

{sources}

</details>
"""

# Of what has no block: `linear_softmax_loss` and the metric.
BARE = """\
# {name}

{what}

```{{math}}
{formula}
```

{when}
{same}
## Reference

```{{eval-rst}}
.. currentmodule:: polyloss
.. autofunction:: {name}
```
"""

SAME = """
## The same elsewhere

Calls that give the same number: the mean over all samples where one loss per sample comes back. Here t, p, z and y are targets,
predictions, logits and labels; F is `torch.nn.functional`.

| library | there | here |
|---|---|---|
{rows}
"""

INDEX = """\
# Losses

Each with its curve: the loss of one sample over its first prediction, and, dashed, the gradient. Every loss has a page with its formula,
when to take it, the same in other libraries, and worked examples.

{groups}

```{{toctree}}
:hidden:

{pages}
```
"""


GROUP = """\
## {title}

| loss | | of one sample |
|---|---|---|
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
# Without a block: their pages have no curves, worked examples or routes.
BESIDE = {"Logits": ("linear_softmax_loss",), "Metrics": ("log_loss",)}


def groups():
    """The sections of the index."""
    listed = [name for names in GROUPS.values() for name in names]
    if sorted(listed) != sorted(LOSSES):
        raise AssertionError(f"GROUPS must name every loss once: {sorted(set(LOSSES) ^ set(listed)) or 'one stands there twice'}")
    sections = []
    for title in dict.fromkeys((*GROUPS, *BESIDE)):
        names = (*GROUPS.get(title, ()), *BESIDE.get(title, ()))
        rows = [f"| [{name}]({name}.md) | ![curve of {name}](curves/{name}.svg) | {summary(name)} |" for name in names]
        note = "\nThe crossentropies of probabilities take logits too, with `from_logits=True`.\n" if title == "Logits" else ""
        sections.append(GROUP.format(title=title, rows="\n".join(rows)) + note)
    return "\n".join(sections)


def summary(name):
    """The first line of what a function's help says."""
    return inspect.getdoc(getattr(pl, name)).partition("\n")[0].replace("``", "`").replace("|", "\\|")


def write(folder):
    """Write the pages, their index, and the list of links of the start page into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "curves").mkdir(exist_ok=True)
    listed = [*LOSSES, *(name for names in BESIDE.values() for name in names)]
    if sorted(listed) != sorted(TEXTS):
        raise AssertionError(f"loss_texts.py must speak of every loss: {sorted(set(listed) ^ set(TEXTS))}")
    for name in listed:
        (folder / f"{name}.md").write_text(page(name), "utf-8")
        thumbnail(name, folder / "curves" / f"{name}.svg")
    (folder / "index.md").write_text(INDEX.format(groups=groups(), pages="\n".join(listed)), "utf-8")
    (folder / "links.txt").write_text(links(), "utf-8")


def links():
    """All losses in their groups, as the start page links them."""
    rows = []
    for title in dict.fromkeys((*GROUPS, *BESIDE)):
        names = (*GROUPS.get(title, ()), *BESIDE.get(title, ()))
        rows.append(f"| [{title}](losses/index.md#{title.lower()}) | {' · '.join(f'[{name}](losses/{name}.md)' for name in names)} |")
    return "| losses of | |\n|---|---|\n" + "\n".join(rows) + "\n"


def page(name):
    """The text of a page."""
    text, block = TEXTS[name], LOSSES.get(name)
    parts = dict(name=name, what=summary(name), when=text.when, formula=text.formula, same=same(text))
    if block is None:
        return BARE.format(**parts)
    aliases = ", ".join(f"`{alias}`" for alias in block.aliases)
    return PAGE.format(
        **parts,
        aliases=aliases,
        domain=block.domain,
        worked=worked(block),
        routes=routes(name),
        sources="\n\n".join(map(source, with_bases(forms(block)))),
    )


def same(text):
    """The table of calls of other libraries."""
    rows = [f"| {library} | `{there}` | `{here}` |" for library, there, here in text.same]
    return SAME.format(rows="\n".join(rows)) if rows else ""


def forms(block):
    """The blocks whose formulas the calls of a loss may take."""
    module = inspect.getmodule(block)
    others = [cls for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, Block) and cls.name is None]
    used = inspect.getsource(block)
    named = [cls for cls in others if re.search(rf"\b{cls.__name__}\b", used) and cls not in block.__mro__]
    return list(dict.fromkeys((block, *(form for form in (block.logits, block.logarithms) if form), *named)))


def thumbnail(name, path):
    """A small picture of the loss and its gradient over the first prediction of its first worked example."""
    block = LOSSES.get({"linear_softmax_loss": "softmax_loss", "log_loss": "sparse_categorical_crossentropy"}.get(name, name))
    figure, axes = plt.subplots(figsize=(1.5, 0.75))
    example = block.worked[0]
    x, losses, slopes = curve(block, example, 101)
    top = np.nanmax(np.abs(losses[np.isfinite(losses)])) or 1
    axes.plot(x, losses, color="#c1272d", linewidth=1.5)
    axes.plot(x, slopes, color="#6d83ad", linewidth=1, linestyle=(0, (3, 2)))
    axes.axhline(0, color="#999999", linewidth=0.5)
    axes.set(ylim=(-min(top, 4), min(top, 8) * 1.05))
    axes.set_axis_off()
    with plt.rc_context({"svg.hashsalt": "polyloss"}):
        figure.savefig(path, transparent=True, bbox_inches="tight", pad_inches=0, metadata={"Date": None})
    plt.close(figure)


def curve(block, example, points):
    """Where the first prediction is varied, the losses and the slopes there."""
    t, p, parameters = arguments(block, example)
    x = np.linspace(*span(block, p, transformed(parameters)), points)
    varied, targets = np.repeat(p[:, None], len(x), axis=1), np.repeat(t[..., None], len(x), axis=-1)
    varied[0] = x
    losses = block.function(targets, varied, axis=0, reduction="none", **parameters)
    return x, losses, pl.grad(block.name)(targets, varied, axis=0, reduction="sum", **parameters)[0]


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
            x, losses, slopes = curve(block, example, 401)
            label = ", ".join([f"y_true = {numbers(t)}", *(f"{key} = {value}" for key, value in parameters.items())])
            for axes, y, known in ((left, losses, example["value"]), (right, slopes, np.ravel(example["slope"])[0])):
                (line,) = axes.plot(x, y, label=label)
                axes.plot(p[0], known, "o", color=line.get_color())
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
    """The table of routes: by array library, form of the predictions and dtype."""
    labels, logits = _demo.digits()
    y_true, y_pred = _demo.arguments(name, labels, logits)
    libraries = [library for library in _demo.installed() if library.name not in ("CuPy", "torch, CUDA")]
    rows = [f"| predictions | {' | '.join(DTYPES)} |", "|---" * (1 + len(DTYPES)) + "|"]
    loss, labelled = LOSSES[name], np.ndim(y_true) < np.ndim(y_pred)
    for block, options in ((loss, {}), (loss.logits, {"from_logits": True}), (loss.logarithms, {"log_input": True})):
        if block is None:
            continue
        form = "".join(f", `{key}=True`" for key in options)
        for library in libraries:
            taken = [route(name, library, y_true, y_pred, dtype, options) for dtype in DTYPES]
            rows.append(f"| {library.name}{form} | {' | '.join(taken)} |")
        rows.append(f"| CuPy, torch on CUDA devices{form} {f'| {on_cuda(block, labelled)} ' * len(DTYPES)}|")
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


def on_cuda(block, labelled):
    """Which kernel takes a block's calls on a CUDA device."""
    kernel = (labelled and block.kernel_of_labels) or block.kernel
    lists = {name: cuda.formulas(f"formulas/{name}.h") for name in ("elementwise", "rowwise")} | {"softmax_xent": ("softmax_xent",)}
    return next((name for name, losses in lists.items() if kernel in losses), "formula")
