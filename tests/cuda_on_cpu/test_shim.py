"""The shim itself: what it must execute as a GPU does, and the planted faults that it must find."""

import platform

import numpy as np
import pytest
from cpu_module import KernelError, RawModule, fenced

SOUND = r"""
extern "C" __global__ void rotate(float* out) {
  __shared__ float s[256];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}
extern "C" __global__ void meet(unsigned* out, int n) {  // early exit, shuffles, votes, a half warp
  const unsigned t = threadIdx.x;
  if (t >= n) return;
  unsigned v = t + __shfl_xor_sync(0xffffffffu, t, 1) + __popc(__ballot_sync(0xffffffffu, t % 3 == 0));
  if (t % 32 < 16) v += __shfl_xor_sync(0x0000ffffu, v, 2);
  out[t] = v;
}
extern "C" __global__ void votes(int* out) { out[threadIdx.x] = __syncthreads_or(threadIdx.x == 37) + 2 * __syncthreads_or(false); }
extern "C" __global__ void count(const int* x, int n, int* total, int* least) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) { atomicAdd(total, x[i]); atomicMin(least, x[i]); }
}
struct Pair { const float* x; int n; double factor; };
extern "C" __global__ void scale(Pair p, float* out) { if (threadIdx.x < p.n) out[threadIdx.x] = p.factor * p.x[threadIdx.x]; }
"""
SOUND_NAMES = ("rotate", "meet", "votes", "count", "scale")

FAULTS = r"""
extern "C" __global__ void no_barrier(float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}
extern "C" __global__ void no_second_barrier(float* out) {
  __shared__ float s[1];
  float a = 0;
  for (int i = 0; i < 4; i++) { if (threadIdx.x == 0) s[0] = i; __syncthreads(); a += s[0]; }
  out[threadIdx.x] = a;
}
extern "C" __global__ void two_barriers(float* out) {
  if (threadIdx.x < 40) __syncthreads();
  else {
    out[threadIdx.x] = 1;
    __syncthreads();
  }
}
extern "C" __global__ void missed_barrier(float* out) { if (threadIdx.x < 40) __syncthreads(); else for (;;) __syncwarp(); }
extern "C" __global__ void wide_mask(float* out) {
  float v = 1;
  if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 1);
  __syncthreads();
  out[threadIdx.x] = v;
}
extern "C" __global__ void foreign_mask(float* out) { out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.f, 1); }
extern "C" __global__ void unwritten(float* out) {
  __shared__ float s[64];
  if (threadIdx.x < 32) s[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
template <class T> __global__ void unwritten_template(T* out) { __shared__ T s[64]; out[threadIdx.x] = s[threadIdx.x]; }
extern "C" __global__ void past_static(float* out) { __shared__ float s[64]; s[threadIdx.x + 1] = 1; out[threadIdx.x] = 0; }
extern "C" __global__ void past_dynamic(float* out) { float* s = shared_memory<float>(); s[threadIdx.x + 1] = 1; out[threadIdx.x] = 0; }
extern "C" __global__ void past_global(float* out) { out[threadIdx.x + 4] = 1; }
extern "C" __global__ void before_global(float* out) { out[static_cast<long long>(threadIdx.x) - 1024] = 1; }
extern "C" __global__ void misaligned(float* out) { *reinterpret_cast<float4*>(out + 1) = float4{1, 2, 3, 4}; }
extern "C" __global__ void fails_assert(float* out) { assert(threadIdx.x < 50); }
extern "C" __global__ void overflows(float* out, int n) { out[0] = n * 65536; }
extern "C" __global__ void divides(float* out, int n) { out[0] = 5 / (n - n); }
extern "C" __global__ void lost_update(float* out) { out[0] += 1; }
extern "C" __global__ void two_blocks(float* out) { if (threadIdx.x == 0) out[0] = blockIdx.x; }
__device__ int deep(volatile int n) { volatile char room[900]; room[0] = n; return n ? deep(n - 1) + room[0] : 0; }
extern "C" __global__ void recursion(float* out, int n) { out[0] = deep(n); }
"""
CLUSTERS = r"""
template <int N> __global__ void __cluster_dims__(N) gather(const float* x, float* out) {  // each block adds up what its cluster holds
  float* s = shared_memory<float>();
  s[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  cluster_sync<N>();
  float sum = 0;
  for (int r = 0; r < N; r++) sum += load_remote(s + threadIdx.x, r);
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  cluster_sync<N>();
}
template <int N> __global__ void __cluster_dims__(N) leaves_early(float* out) {
  float* s = shared_memory<float>();
  s[threadIdx.x] = 1;
  cluster_sync<N>();
  out[blockIdx.x * 64 + threadIdx.x] = load_remote(s + threadIdx.x, blockIdx.x ? 0 : 1);
}
template <int N> __global__ void __cluster_dims__(N) no_cluster_barrier(float* out) {
  float* s = shared_memory<float>();
  cluster_sync<N>();
  s[threadIdx.x] = 1;
  out[blockIdx.x * 64 + threadIdx.x] = load_remote(s + threadIdx.x, 1 - blockIdx.x);
  cluster_sync<N>();
}
"""
CLUSTER_NAMES = ("gather<4>", "leaves_early<2>", "no_cluster_barrier<2>")
SCALARS = {"overflows": (np.int32(1 << 16),), "divides": (np.int32(3),), "recursion": (np.int32(1000000),)}
PLANTED = {  # kernel: what the shim says of it
    "two_barriers": "other threads of the block wait at the barrier",
    "missed_barrier": "lanes of the mask|deadlock|overlaps",
    "wide_mask": "deadlock",
    "foreign_mask": "own lane 16 is not in its mask",
    "past_static": "out of bounds",
    "past_dynamic": "past the end of dynamic shared memory",
    "past_global": "bad address",
    "before_global": "bad address",
    "misaligned": "misaligned",
    "fails_assert": r"thread \(50,0,0\): assert",
    "overflows": r"overflow in \*",
    "divides": "division by zero",
    "recursion": "stack overflow",
}
RACES = {
    "no_barrier": (1, "write by this block's thread|read by this block's thread"),
    "no_second_barrier": (1, "data race"),
    "lost_update": (1, "data race"),
    "two_blocks": (2, "another block's thread 0"),
}
PLAIN = [*PLANTED, *RACES, "unwritten", "unwritten_template<float>", "unwritten_template<double>"]


@pytest.fixture(scope="module", params=[0, 1, 7], ids="seed{}".format)
def sound(request):
    return RawModule(code=SOUND, name_expressions=SOUND_NAMES, seed=request.param)


@pytest.fixture(scope="module")
def faults():
    return RawModule(code=FAULTS, name_expressions=PLAIN)


@pytest.fixture(scope="module")
def watched():
    return RawModule(code=FAULTS, name_expressions=tuple(RACES), racecheck=True)


def launch(module, name, *args, grid=1, block=64, shared=0):
    module.get_function(name)((grid,), (block,), args, shared_mem=shared)


def test_barrier_and_shared_memory(sound):
    out = fenced(200, "f4")
    launch(sound, "rotate", out, block=200)
    np.testing.assert_array_equal(out, (np.arange(200) + 1) % 200)


@pytest.mark.parametrize("n", [1, 31, 32, 45, 64])
def test_warp_operations_with_early_exit(sound, n):
    out = fenced(n, "u4")
    launch(sound, "meet", out, np.int32(n), block=n)
    t = np.arange(n)
    warp = t // 32
    votes = np.array([((t % 3 == 0) & (warp == w)).sum() for w in warp])
    pair = t ^ 1
    known = pair < n  # a shuffle from a lane that left is undefined
    v = t + pair + votes
    partner = t ^ 2
    low = t % 32 < 16
    both = known & (~low | ((partner < n) & known[np.minimum(partner, n - 1)]))
    expected = np.where(low, v + v[np.minimum(partner, n - 1)], v)
    np.testing.assert_array_equal(out[both], expected[both])


def test_votes_of_a_block(sound):
    out = fenced(64, "i4")
    launch(sound, "votes", out)
    np.testing.assert_array_equal(out, 1)


def test_atomics_across_blocks(sound):
    x, total, least = fenced(1000, "i4"), fenced(1, "i4"), fenced(1, "i4")
    x[:] = np.random.default_rng(0).integers(-99, 99, 1000)
    total[0], least[0] = 0, 99
    launch(sound, "count", x, np.int32(1000), total, least, grid=16)
    assert (total[0], least[0]) == (x.sum(), x.min())


@pytest.mark.parametrize(("seed", "racecheck"), [(0, False), (1, False), (7, False), (0, True)])
def test_cluster(seed, racecheck):
    module = RawModule(code=CLUSTERS, name_expressions=CLUSTER_NAMES, seed=seed, racecheck=racecheck)
    x, out = fenced((8, 64), "f4"), fenced((8, 64), "f4")
    x[:] = np.arange(512).reshape(8, 64)
    launch(module, "gather<4>", x, out, grid=8, shared=256)
    np.testing.assert_array_equal(out, np.repeat(x.reshape(2, 4, 64).sum(1), 4, axis=0))


def test_structure_by_value(sound):
    x, out = fenced(64, "f4"), fenced(64, "f4")
    x[:] = np.arange(64)
    pair = np.dtype([("x", "u8"), ("n", "i4"), ("factor", "f8")], align=True)
    launch(sound, "scale", np.array((x.ctypes.data, 64, 2.5), pair), out)
    np.testing.assert_array_equal(out, 2.5 * np.arange(64))


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found(faults, name):
    with pytest.raises(KernelError, match=PLANTED[name]):
        launch(faults, name, fenced(64, "f4"), *SCALARS.get(name, ()), shared=256)


@pytest.mark.parametrize(
    ("name", "dtype"), [("unwritten", "f4"), ("unwritten_template<float>", "f4"), ("unwritten_template<double>", "f8")]
)
def test_unwritten_shared_memory_is_nan(faults, name, dtype):
    out = fenced(64, dtype)
    out[:] = 0
    launch(faults, name, out)
    assert np.isnan(out[32:]).all()


@pytest.mark.parametrize("name", RACES)
def test_planted_race_is_found(watched, name):
    grid, message = RACES[name]
    with pytest.raises(KernelError, match=message):
        launch(watched, name, fenced(64, "f4"), grid=grid)


@pytest.mark.parametrize("name", ["no_barrier", "no_second_barrier"])
def test_races_give_wrong_results_in_some_order(name):
    """What the race check says is no matter of taste: an order exists in which the result differs."""
    results = []
    for seed in (0, 1, 7):
        out = fenced(64, "f4")
        launch(RawModule(code=FAULTS, name_expressions=PLAIN, seed=seed), name, out)
        results.append(out.copy())
    assert not all(np.array_equal(results[0], r) for r in results)


def test_sound_kernels_have_no_race():
    module = RawModule(code=SOUND, name_expressions=SOUND_NAMES, racecheck=True)
    launch(module, "rotate", fenced(64, "f4"))
    n, total, least = fenced(64, "i4"), fenced(1, "i4"), fenced(1, "i4")
    launch(module, "count", n, np.int32(64), total, least, grid=2)


@pytest.mark.parametrize(
    ("name", "racecheck", "message"), [("leaves_early<2>", False, "has ended"), ("no_cluster_barrier<2>", True, "race.*another block")]
)
def test_cluster_faults_are_found(name, racecheck, message):
    module = RawModule(code=CLUSTERS, name_expressions=CLUSTER_NAMES, racecheck=racecheck)
    with pytest.raises(KernelError, match=message):
        launch(module, name, fenced((2, 64), "f4"), grid=2, shared=256)


def test_shared_variables_and_clusters_do_not_mix():
    """Each block of a cluster needs its own copy, which only dynamic shared memory has."""
    module = RawModule(code=CLUSTERS + FAULTS, name_expressions=("gather<4>", "no_barrier"))
    with pytest.raises(KernelError, match="use shared_memory"):
        launch(module, "gather<4>", fenced((4, 64), "f4"), fenced((4, 64), "f4"), grid=4, shared=256)


def test_wrong_arguments_are_named(faults):
    out = fenced(64, "f4")
    with pytest.raises(TypeError, match="takes 2 arguments, got 1"):
        launch(faults, "overflows", out)
    with pytest.raises(TypeError, match="argument 1: the kernel takes i4, got f8"):
        launch(faults, "overflows", out, 3.0)
    with pytest.raises(TypeError, match="points to f4, the array holds f8"):
        launch(faults, "lost_update", fenced(64, "f8"))
    with pytest.raises(KernelError, match="bytes of shared memory"):
        launch(faults, "lost_update", out, shared=50000)
    with pytest.raises(KernelError, match="invalid launch"):
        launch(faults, "lost_update", out, block=2000)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the shim flushes by the flags of x86-64's processors")
@pytest.mark.parametrize(("kind", "kept"), [("float", False), ("double", True)])
def test_subnormal_floats_count_as_0(kind, kept):
    """As CuPy compiles; the caller's own arithmetic is as before."""
    name = f"halve<{kind}>"
    code = "template <class A> __global__ void halve(A* p) { p[0] = p[0] * A(0.5); }"
    tiny = np.finfo("f4" if kind == "float" else "f8").smallest_normal
    p = np.array([tiny])
    RawModule(code=code, name_expressions=(name,)).get_function(name)((1,), (1,), (p,))
    assert p[0] == (tiny / 2 if kept else 0)
    assert tiny / 2 > 0
