"""Every kernel goes through CuPy's compiler as on a machine with a GPU: for the generations in use, without spills, with wide accesses."""

import re

import nvrtc_compile
import pytest

from polyloss._kernels import cuda

# Kernels that lie on both sides of each template argument; all dtypes and options together take ten minutes.
SOFTMAX = [
    ("float32", "rows_warp<float,false>"),
    ("float32", "spatial<float,false,4>"),
    ("bfloat16", "rows_block<__nv_bfloat16,true>"),
    ("float16", "spatial<__half,true,1>"),
    ("float64", "rows_block<double,true>"),
    ("float64", "label_sums<double>"),
]
CLUSTERS = [("float32", "rows_cluster<float,false,8>"), ("float64", "rows_cluster<double,true,8>")]
THREADS = {"rows_warp": 128, "rows_block": 512, "rows_cluster": 512, "spatial": 256, "label_sums": 256}  # of a launch, at most


def compiled(file, dtype, name, arch):
    cubin, report = nvrtc_compile.compiled(cuda.source(file), cuda.options(dtype), arch, [name])
    assert cubin[:4] == b"\x7fELF"
    assert {int(n) for n in re.findall(r"(\d+) bytes spill", report)} == {0}, report
    return max(map(int, re.findall(r"Used (\d+) registers", report)))


@pytest.mark.parametrize("arch", ["75", "80", "90", "100", "120"])
@pytest.mark.parametrize(("dtype", "name"), SOFTMAX)
def test_softmax(arch, dtype, name):
    threads = 256 if dtype == "float64" else THREADS[name.partition("<")[0]]
    assert compiled("softmax_xent.cu", dtype, name, arch) * threads <= 65536  # the registers of a multiprocessor


@pytest.mark.parametrize("arch", ["90", "120"])
@pytest.mark.parametrize(("dtype", "name"), CLUSTERS)
def test_softmax_clusters(arch, dtype, name):
    assert compiled("softmax_xent.cu", dtype, name, arch) * (256 if dtype == "float64" else 512) <= 65536


ELEMENTWISE = [
    ("float32", "flat<float,mean_squared_error>"),
    ("bfloat16", "columns<__nv_bfloat16,binary_crossentropy_from_logits,8>"),
    ("float64", "rows<double,binary_focal_crossentropy>"),
]


@pytest.mark.parametrize("arch", ["75", "90", "120"])
@pytest.mark.parametrize(("dtype", "name"), ELEMENTWISE)
def test_elementwise(arch, dtype, name):
    assert compiled("elementwise.cu", dtype, name, arch) * 256 <= 65536


def test_finish():
    compiled("device.cuh", "float32", "finish<float>", "90")


@pytest.mark.parametrize(("dtype", "name"), [
    ("float32", "rows_block<float,false>"), ("bfloat16", "rows_block<__nv_bfloat16,false>"), ("float32", "spatial<float,false,4>"),
])  # fmt: skip
def test_memory_is_accessed_by_16_bytes(dtype, name):
    """Logits come and gradients go in packs; a compiler that merges two branches of one effect takes that away silently."""
    code = nvrtc_compile.ptx(cuda.source("softmax_xent.cu"), cuda.options(dtype), "90", [name])
    assert len(re.findall(r"ld\.global\S*\.v4", code)) >= 4
    assert len(re.findall(r"st\.global\S*\.v4", code)) >= 2


def test_clusters_are_declared():
    """The size of a cluster is a property of the kernel; CuPy's launch does not know it."""
    code = nvrtc_compile.ptx(cuda.source("softmax_xent.cu"), cuda.options("float32"), "90", ["rows_cluster<float,false,4>"])
    assert re.search(r"\.reqnctapercluster 4, 1, 1|\.explicitcluster", code)
    assert "mapa.shared::cluster" in code


def test_changed_headers_change_the_code(tmp_path, monkeypatch):
    """CuPy's disk cache knows the code alone."""
    before = cuda.source("softmax_xent.cu")
    for path in cuda.FOLDER.glob("*.cu*"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(cuda, "FOLDER", tmp_path)
    cuda.source.cache_clear()
    (tmp_path / "device.cuh").write_text("// another")
    assert cuda.source("softmax_xent.cu") != before
    cuda.source.cache_clear()
