"""Fixtures: array libraries, layouts, and a state that no test leaves changed."""

import gc
import os
import pkgutil
import sys

# Before anything imports JAX or Keras: both read them once.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # else JAX appends a note to messages, which test_errors reads word for word
os.environ.setdefault("KERAS_BACKEND", "numpy")

import pytest
from libraries import DEVICE_NAMESPACE, GPUS, LAYOUTS, LIBRARIES, DeviceArray

import polyloss as pl
from polyloss import registry
from polyloss._call import call as _call
from polyloss._core import backends as _backends
from polyloss._core.block import LOSSES
from polyloss._kernels import cpu

collect_ignore = [] if sys.platform == "linux" else ["cuda_on_cpu"]  # by g++, GNU's linker and /proc

# The stand-in is a row of the table, as CuPy is.
_backends.BACKENDS = (*_backends.BACKENDS, _backends.Backend("stand-in", lambda x: isinstance(x, DeviceArray), lambda x: DEVICE_NAMESPACE))


@pytest.fixture(params=LIBRARIES, ids=repr)
def lib(request):
    """Each array library on each device."""
    return request.param


@pytest.fixture(params=LAYOUTS, ids=lambda f: f.__name__.strip("_"))
def layout(request):
    """NumPy array -> the same values in another layout."""
    return request.param


# ------------------------------------------------------------------------------------------------------------------- state


@pytest.fixture(autouse=True)
def restored_state():
    """Threads, registry and caches as they were: no test leaves anything behind."""
    threads, losses = pl.get_num_threads(), dict(LOSSES)
    yield
    pl.set_num_threads(threads)
    _call.plan_cache.forget()
    if losses != LOSSES:
        LOSSES.clear()
        LOSSES.update(losses)
        registry._exact_names.cache_clear()
        registry._loose_names.cache_clear()


# --------------------------------------------------------------------------------------------------------------- selection


gc.disable()  # until everything is collected: a third of that time went into looking through what stays


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    if os.environ.get("POLYLOSS_SLOW_TESTS", "0") == "0":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; POLYLOSS_SLOW_TESTS=1 runs it"))


# ------------------------------------------------------------------------------------------------------------------ report


def pytest_report_header():
    kernels = [module.name for module in pkgutil.iter_modules(cpu.__path__)]
    return [f"polyloss: compiled kernels {', '.join(kernels) or 'none'}; GPU libraries {', '.join(map(repr, GPUS)) or 'none'}"]


def pytest_terminal_summary(terminalreporter):
    ran = [r for r in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", []) if "gpu" in r.nodeid.lower()]
    terminalreporter.write_line(f"GPU cases run: {len(ran)}")
