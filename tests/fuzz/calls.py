"""A call as data: arrays with layouts and libraries, options, and the line of Python that makes it.

A call is run by executing its own code, so that what a finding prints is what was run. Only the numbers differ: a run takes the arrays as
they are, a printed line spells them out.
"""

import os
import warnings
from dataclasses import dataclass, field, replace

import numpy as np

try:
    from polyloss._kernels.cpu import driver
except ImportError:
    driver = None

LIBRARIES = {  # how a NumPy array X becomes one of a library's; and what must be imported
    "numpy": ("{}", ""),
    "torch": ("torch.from_numpy({})", "import torch"),
    "jax": ("jnp.asarray({})", "import jax, jax.numpy as jnp; jax.config.update('jax_enable_x64', True)"),
    "strict": ("xps.asarray({})", "import array_api_strict as xps"),
    "dask": ("da.from_array({}, chunks={chunks})", "import dask.array as da"),
}
LAYOUTS = {  # NumPy's, of an array X
    "plain": "X",
    "strided": "np.repeat(X, 2, -1)[..., ::2]",
    "reversed": "X[::-1].copy()[::-1]",
    "flipped": "X[..., ::-1].copy()[..., ::-1]",
    "fortran": "np.asfortranarray(X)",
    "inner": "np.pad(X, [(1, 2)] * X.ndim)[(slice(1, -2),) * X.ndim]",
    "broadcast": "np.broadcast_to(X[:1], X.shape)",
    "unaligned": "np.frombuffer(b'?' + X.tobytes(), 'u1')[1:].view(X.dtype).reshape(X.shape)",
    "swapped": "X.astype(X.dtype.newbyteorder())",
    "readonly": "np.broadcast_to(X, X.shape)",
    "masked": "np.ma.array(X)",  # never drawn: it is refused
}
TENSOR_LAYOUTS = {
    "plain": "X",
    "strided": "torch.stack([X, X], -1)[..., 0]",
    "fortran": "X.permute(*range(X.ndim)[::-1]).contiguous().permute(*range(X.ndim)[::-1])",
    "inner": "torch.cat([X, X])[len(X):]",
    "broadcast": "X[:1].expand(X.shape)",
}


@dataclass(frozen=True)
class Array:
    """An argument: its values, and how they lie in memory."""

    values: np.ndarray
    layout: str = "plain"

    def __post_init__(self):
        object.__setattr__(self, "values", np.asarray(self.values))  # not a scalar

    def seen(self):
        """The values that the callee sees."""
        x = self.values
        return np.broadcast_to(x[:1], x.shape) if self.layout == "broadcast" else x

    def code(self, library, name):
        """How it is made of an array `name`."""
        dtype = self.values.dtype.name
        make, _ = LIBRARIES[library]
        if library == "torch":
            bits = dtype == "bfloat16"
            made = f"torch.from_numpy({name}.view('i2')).view(torch.bfloat16)" if bits else make.format(name)
            return TENSOR_LAYOUTS[self.layout].replace("X", made) if self.layout in TENSOR_LAYOUTS else made
        laid = LAYOUTS[self.layout].replace("X", name)
        if library == "dask":
            return make.format(laid, chunks=tuple(max(1, -(-n // 2)) for n in self.values.shape))
        return make.format(laid)

    def literal(self):
        """The values, spelled out."""
        x = self.values
        dtype = x.dtype.name
        spelled = {"bfloat16": "bfloat16", "float64": "float", "int64": "int", "bool": "bool"}.get(dtype, repr(dtype))
        if x.size == 0:
            return f"np.zeros({x.shape}, {spelled})"
        if x.size > 64 and (x == x.flat[0]).all():
            return f"np.full({x.shape}, {_word(x.flat[0])}, {spelled})"
        return f"np.array({_words(x)}, {spelled})"


def _words(x):
    return _word(x[()]) if x.ndim == 0 else f"[{', '.join(_words(y) for y in x)}]"


def _word(x):
    return repr(x.item()) if x.dtype.name in ("float64", "bool") or x.dtype.kind in "iu" else str(x)


@dataclass(frozen=True)
class Call:
    """One call of one loss."""

    loss: str
    mode: str  # "value", "value_and_grad", "grad", "grad_and_hess", "autograd"
    arrays: dict  # y_true, y_pred, sample_weight, class_weight, denominator, upstream -> Array
    options: dict = field(default_factory=dict)  # what else is passed by name
    library: str = "numpy"
    route: str = ""  # what POLYLOSS_ROUTE says
    isa: str = ""
    threads: int = 1
    out: str = ""  # a layout, or none
    jit: bool = False
    labelled: bool = False  # the targets are labels

    @property
    def label(self):
        """What is counted: the loss, the library, the mode, the route."""
        return self.loss, self.library, self.mode, self.route or self.isa or "kernel"

    def changed(self, **changes):
        return replace(self, **changes)

    def with_array(self, name, array):
        arrays = {**self.arrays, name: array}
        return replace(self, arrays={k: x for k, x in arrays.items() if x is not None})

    @property
    def prediction(self):
        return self.arrays["y_pred"]

    def code(self, literal=True):
        """The lines that make the call and leave its results in `r`; without `literal` arrays are called A_<name>."""
        lines = []
        if literal:
            lines += ["import numpy as np, polyloss as pl", "from numpy import nan, inf"]
            if LIBRARIES[self.library][1]:
                lines.append(LIBRARIES[self.library][1])
            if any(x.values.dtype.name == "bfloat16" for x in self.arrays.values()):
                lines.append("from ml_dtypes import bfloat16")
            if self.route:
                lines.append(f"import os; os.environ['POLYLOSS_ROUTE'] = {self.route!r}")
            if self.isa:
                lines.append(f"from polyloss._kernels.cpu import driver; driver.force({self.isa!r})")
            if self.threads > 1:
                lines.append(f"pl.set_num_threads({self.threads})")
        short = {"y_true": "t", "y_pred": "p", "sample_weight": "w", "class_weight": "k", "denominator": "d", "upstream": "u", "mask": "m"}
        for name, array in self.arrays.items():
            if literal:
                lines.append(f"{short[name]} = {array.literal()}")
            made = array.code(self.library, short[name] if literal else "A_" + name)
            if made != short[name]:
                lines.append(f"{short[name]} = {made}")
        words = [f"{name}={short[name]}" for name in ("sample_weight", "class_weight", "denominator", "mask") if name in self.arrays]
        words += [f"{name}={value!r}" for name, value in self.options.items()]
        if self.mode == "autograd":
            return "\n".join(lines + self._autograd(words))
        if self.out:
            out = Array(np.full(self.prediction.values.shape, 77).astype(self.gradient_dtype), self.out)
            made = out.code(self.library, out.literal() if literal else "A_out")
            lines.append(f"o = {made}")
            if self.mode == "grad_and_hess":
                lines.append(f"o = o, {made.replace('A_out', 'A_second')}")
            words.append("out=o")
        function = f"pl.{self.loss}" if self.mode == "value" else f"pl.{self.mode}({self.loss!r})"
        lines.append(f"r = {function}({', '.join(['t', 'p', *words])})")
        return "\n".join(lines)

    def _autograd(self, words):
        """Gradients with respect to all that is differentiable, by the library's own means."""
        short = {"by_target": "t", "gradient": "p", "by_weight": "w", "by_class": "k", "by_divisor": "d"}
        wanted = [short[name] for name in self.results()[1:]]
        call = f"pl.{self.loss}({', '.join(['t', 'p', *words])})"
        if self.library == "torch":
            lines = [f"{x} = {x}.detach().requires_grad_()" for x in wanted]
            return [*lines, f"v = {call}", "v.backward(u.to(v.dtype))", f"r = v.detach(), {', '.join(f'{x}.grad' for x in wanted)}"]
        function = f"lambda {', '.join(wanted)}: {call}"
        function = f"jax.jit({function})" if self.jit else function
        return [f"v, back = jax.vjp({function}, {', '.join(wanted)})", "r = v, *back(u.astype(v.dtype))"]

    @property
    def float_target(self):
        return self.arrays["y_true"].values.dtype.kind not in "iub"

    @property
    def dtype(self):
        """Of the predictions, by name; that of the library for integers."""
        x = self.prediction.values.dtype
        return ("float32" if self.library == "torch" else "float64") if x.kind in "iub" else x.name

    @property
    def gradient_dtype(self):
        import ml_dtypes

        return ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype

    def results(self):
        """Names of the results, in their order."""
        if self.mode == "autograd":
            weight = self.arrays.get("sample_weight")
            names = ["value"] + ["by_target"] * (not self.labelled and self.float_target) + ["gradient"]
            names += ["by_weight"] * (weight is not None and weight.values.dtype.kind not in "iub")
            return names + ["by_class"] * ("class_weight" in self.arrays) + ["by_divisor"] * ("denominator" in self.arrays)
        return {
            "value": ["value"], "value_and_grad": ["value", "gradient"], "grad": ["gradient"], "grad_and_hess": ["gradient", "hessian"],
        }[self.mode]  # fmt: skip


class Refused(Exception):
    """A call raised, though it should not have."""


def numpy_of(x):
    """A result of any library as a NumPy array."""
    kind = type(x).__module__.partition(".")[0]
    if kind == "torch":
        import ml_dtypes
        import torch

        x = x.detach()
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype is torch.bfloat16 else x.numpy()
    if kind == "dask":
        return np.asarray(x.compute(scheduler="synchronous"))
    return np.asarray(x)


def run(call):
    """The results by name, as NumPy arrays; what went wrong beside the numbers as a list of words."""
    given = {f"A_{name}": array.values.copy() for name, array in call.arrays.items()}
    if call.out:
        given["A_out"] = np.full(call.prediction.values.shape, 77).astype(call.gradient_dtype)
        given["A_second"] = given["A_out"].copy()
    space = {**MODULES, **given}
    for name in {"jax": ("jax", "jnp"), "torch": ("torch",), "strict": ("xps",), "dask": ("da",)}.get(call.library, ()):
        space[name] = module(name)
    wrong = []
    with Setting(call), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            exec(compile(call.code(literal=False), "<call>", "exec"), space)
            found = space["r"]
            found = list(found) if isinstance(found, tuple) and call.mode != "value" else [found]
            raw = {}
            for name, x in zip(call.results(), found, strict=True):
                if name == "value" and isinstance(x, tuple):
                    raw[name], raw["prob"] = x
                else:
                    raw[name] = x
            results = {name: numpy_of(x) for name, x in raw.items() if x is not None}
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
    wrong += [f"warning: {w.category.__name__}: {w.message}" for w in caught]
    for name, array in call.arrays.items():
        if given[f"A_{name}"].tobytes() != array.values.tobytes():
            wrong.append(f"input changed: {name}")
    if call.library == "numpy":
        for name, x in raw.items():
            if any(np.may_share_memory(x, given[f"A_{a}"]) for a in call.arrays):
                wrong.append(f"result shares memory with an input: {name}")
    if call.out:
        out = space["o"] if isinstance(space["o"], tuple) else (space["o"],)
        got = [raw[name] for name in ("gradient", "hessian") if name in raw]
        if any(a is not b for a, b in zip(got, out, strict=True)):
            wrong.append("out is not what came back")
    return results, wrong


_modules = {}


def module(name):
    """An array library by the name that code gives it; imported when first asked for."""
    if name not in _modules:
        space = {}
        exec(next(imports for _, imports in LIBRARIES.values() if name in imports.replace(",", " ").split()), space)
        _modules.update({k: x for k, x in space.items() if not k.startswith("_")})
    return _modules[name]


MODULES = {}


def prepare():
    """What every line of code may use."""
    import ml_dtypes

    import polyloss

    MODULES.update(np=np, pl=polyloss, nan=np.nan, inf=np.inf, bfloat16=ml_dtypes.bfloat16)


class Setting:
    """Route, instruction set and threads of a call, for as long as it runs."""

    def __init__(self, call):
        self.call = call

    def __enter__(self):
        import polyloss as pl

        self.before = os.environ.pop("POLYLOSS_ROUTE", None), pl.get_num_threads()
        if self.call.route:
            os.environ["POLYLOSS_ROUTE"] = self.call.route
        pl.set_num_threads(self.call.threads)
        if self.call.isa:
            self.isa = driver.isa()
            driver.force(self.call.isa)

    def __exit__(self, *_):
        import polyloss as pl

        os.environ.pop("POLYLOSS_ROUTE", None)
        if self.before[0] is not None:
            os.environ["POLYLOSS_ROUTE"] = self.before[0]
        pl.set_num_threads(self.before[1])
        if self.call.isa:
            driver.force(self.isa)


def isas():
    """The instruction sets of this machine, best first; none where the kernels are not built."""
    return driver.isas() if driver else ()
