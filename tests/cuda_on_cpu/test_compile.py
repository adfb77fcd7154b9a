"""Every kernel goes through CuPy's compiler as on a machine with a GPU: for the generations in use, without spills, with wide accesses.

One of each kind here; POLYLOSS_EXHAUSTIVE=1 compiles every kernel of every dtype for every generation: half an hour to an hour.
"""

import os
import re

import nvrtc_compile
import pytest
import stand_in

from polyloss._kernels.gpu import cuda

ARCHS = ("75", "80", "90", "100", "120")
THREADS = {"rows_warp": 128, "rows_block": 512, "rows_cluster": 512, "finish": 512}  # of a launch, at most; of any other 256
REGISTERS = 65536  # of a multiprocessor


def compiled(file, dtype, names, arch):
    """Compile; no kernel may spill registers, and its largest launch must fit into a multiprocessor."""
    cubin, report = nvrtc_compile.compiled(cuda.source(file), cuda.options(file), arch, names)
    assert cubin[:4] == b"\x7fELF"
    said = r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    parts = re.findall(said, report, re.DOTALL)
    assert len(parts) == len(names), report
    for name, stores, loads, registers in parts:
        threads = next((n for kernel, n in THREADS.items() if file in ("softmax_xent.cu", "launch.cuh") and kernel in name), 256)
        threads = min(threads, 256) if dtype == "float64" else threads
        assert (int(stores), int(loads)) == (0, 0), name
        assert int(registers) * threads <= REGISTERS, name


def kernels(file, dtype, arch):
    """The names of all kernels of a file."""
    real, pack = cuda.C_NAMES[dtype], 16 // cuda.SIZES[dtype]
    if file == "softmax_xent.cu":
        names = []
        for weighted in ("true", "false"):
            names += [f"rows_{way}<{real},{weighted}>" for way in ("warp", "block", "part", "rest")]
            names += [f"spatial<{real},{weighted},{each}>" for each in (1, min(pack, 4))]
            names += [f"rows_cluster<{real},{weighted},{size}>" for size in (2, 4, 8) if int(arch) >= 90]
        return names
    if file == "elementwise.cu":
        ways = ("flat<{},{}>", "rows<{},{}>", "columns<{},{},1>", f"columns<{{}},{{}},{pack}>")
        return [f"not_binary<{real}>", *(way.format(real, loss) for loss in cuda.formulas() for way in ways)]
    ways, losses = ("rows_lanes<{},{}>", "rows_block<{},{}>", "columns<{},{}>"), cuda.formulas("formulas/rowwise.h")
    return [way.format(real, loss) for loss in losses for way in ways]


@pytest.mark.skipif(os.environ.get("POLYLOSS_EXHAUSTIVE") != "1", reason="half an hour: POLYLOSS_EXHAUSTIVE=1 compiles everything")
@pytest.mark.parametrize("file", ["softmax_xent.cu", "rowwise.cu", "elementwise.cu"])
@pytest.mark.parametrize("dtype", cuda.C_NAMES)
@pytest.mark.parametrize("arch", ARCHS)
def test_everything(file, dtype, arch):
    compiled(file, dtype, kernels(file, dtype, arch), arch)


# Kernels that lie on both sides of each template argument.
SOFTMAX = [
    ("float32", "rows_warp<float,false>"),
    ("float32", "spatial<float,false,4>"),
    ("bfloat16", "rows_block<__nv_bfloat16,true>"),
    ("float16", "spatial<__half,true,1>"),
    ("float64", "rows_block<double,true>"),
    ("float32", "rows_part<float,false>"),
    ("float32", "rows_rest<float,true>"),
    ("bfloat16", "spatial<__nv_bfloat16,false,4>"),
]
CLUSTERS = [("float32", "rows_cluster<float,false,8>"), ("float64", "rows_cluster<double,true,8>")]
ELEMENTWISE = [
    ("float32", "flat<float,mean_squared_error>"),
    ("bfloat16", "columns<__nv_bfloat16,binary_crossentropy_from_logits,8>"),
    ("float64", "rows<double,binary_focal_crossentropy>"),
]
ROWWISE = [
    ("float32", "rows_lanes<float,categorical_focal_crossentropy>"),
    ("bfloat16", "columns<__nv_bfloat16,sparse_categorical_crossentropy>"),
    ("float64", "rows_block<double,floored_cosine_similarity>"),
]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("dtype", "name"), SOFTMAX)
def test_softmax(arch, dtype, name):
    compiled("softmax_xent.cu", dtype, [name], arch)


@pytest.mark.parametrize("arch", ["90", "120"])
@pytest.mark.parametrize(("dtype", "name"), CLUSTERS)
def test_softmax_clusters(arch, dtype, name):
    compiled("softmax_xent.cu", dtype, [name], arch)


@pytest.mark.parametrize("arch", ["75", "90", "120"])
@pytest.mark.parametrize(("dtype", "name"), ELEMENTWISE)
def test_elementwise(arch, dtype, name):
    compiled("elementwise.cu", dtype, [name], arch)


@pytest.mark.parametrize("arch", ["75", "120"])
@pytest.mark.parametrize(("dtype", "name"), ROWWISE)
def test_rowwise(arch, dtype, name):
    compiled("rowwise.cu", dtype, [name], arch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums(dtype):
    compiled("launch.cuh", dtype, [f"{name}<{cuda.C_NAMES[dtype]}>" for name in ("finish", "position_sums", "shift")], "90")


@pytest.mark.parametrize(("dtype", "name"), [
    ("float32", "rows_block<float,false>"), ("bfloat16", "rows_block<__nv_bfloat16,false>"), ("float32", "spatial<float,false,4>"),
])  # fmt: skip
def test_memory_is_accessed_by_16_bytes(dtype, name):
    """Logits come and gradients go in packs; a compiler that merges two branches of one effect takes that away silently."""
    code = nvrtc_compile.ptx(cuda.source("softmax_xent.cu"), cuda.options("softmax_xent.cu"), "90", [name])
    assert len(re.findall(r"ld\.global\S*\.v4", code)) >= 4
    assert len(re.findall(r"st\.global\S*\.v4", code)) >= 2


def test_clusters_are_declared():
    """The size of a cluster is a property of the kernel; CuPy's launch does not know it."""
    file = "softmax_xent.cu"
    code = nvrtc_compile.ptx(cuda.source(file), cuda.options(file), "90", ["rows_cluster<float,false,4>"])
    assert re.search(r"\.reqnctapercluster 4, 1, 1|\.explicitcluster", code)
    assert "mapa.shared::cluster" in code


def test_the_lines_that_no_test_executes_are_in_the_code():
    """Those of device.cuh under __CUDACC__, in whose place the shim has code of its own: their PTX, as often as their templates say."""
    file, name = "softmax_xent.cu", "rows_cluster<float,true,2>"
    code = nvrtc_compile.ptx(cuda.source(file), cuda.options(file), "90", [name])
    text = (cuda.FOLDER / "gpu" / "device.cuh").read_text()
    asm = {line for line in re.findall(r'asm(?: volatile)?\("([^"]*)"', text) if line}
    assert len(asm) == 4  # a new one is to be looked for, too
    assert "%cluster_ctarank" in code
    arrivals, waits = (len(re.findall(rf"barrier\.cluster\.{word}", code)) for word in ("arrive\\.release", "wait\\.acquire"))
    assert arrivals == waits >= 2  # a merge, and before a block leaves
    words = len(re.findall(r"ld\.shared::cluster\.u32", code))
    mapped = len(re.findall(r"mapa\.shared::cluster\.u32", code))
    assert words >= 5 * mapped > 0  # a State of 5 to 8 numbers, word by word
    assert re.search(r"\.extern \.shared \.align 16 \.b8 polyloss_shared\[\]", code)
    assert code.count("// begin inline asm") >= 2 + arrivals + words + mapped  # `here` is empty, but a place where a number must be known


def test_changed_headers_change_the_code(tmp_path, monkeypatch):
    """CuPy's disk cache knows the code alone."""
    before = cuda.source("softmax_xent.cu")
    stand_in.change(monkeypatch, tmp_path, "device.cuh", "#pragma once", "#pragma once // another")
    cuda.source.cache_clear()
    assert cuda.source("softmax_xent.cu") != before
    cuda.source.cache_clear()
