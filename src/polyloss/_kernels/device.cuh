// What the CUDA kernels share: storage types, 16-byte packs, sums of a block in a fixed order, clusters.
//
// NVRTC has no C++ standard library and no <math.h>; what little is needed of them stands here. Cooperative groups and CUB would do the
// same and take 2 to 4 s to compile, this takes 0.1 s.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;  // all lanes of a warp

// A storage type T and the type A it is computed in.
template <class T> struct Computed {
  using Type = float;
};
template <> struct Computed<double> {
  using Type = double;
};
template <class T> using Compute = typename Computed<T>::Type;

__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(__half x) { return __half2float(x); }
__device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float& to, float x) { to = x; }
__device__ __forceinline__ void store(double& to, double x) { to = x; }
__device__ __forceinline__ void store(__half& to, float x) { to = __float2half_rn(x); }
__device__ __forceinline__ void store(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

template <class A> __device__ __forceinline__ A infinity();
template <> __device__ __forceinline__ float infinity<float>() { return __int_as_float(0x7f800000); }
template <> __device__ __forceinline__ double infinity<double>() { return __longlong_as_double(0x7ff0000000000000ll); }
template <class A> __device__ __forceinline__ A nan_of() { return infinity<A>() - infinity<A>(); }

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }  // the one that is no NaN
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// N elements in one memory access; 16 bytes is the widest.
template <class T> constexpr int kPack = 16 / sizeof(T);
template <class T, int N = kPack<T>> struct alignas(N * sizeof(T)) Pack {
  T at[N];
};
template <class T> __device__ __forceinline__ bool aligned(const T* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

// How a stretch of memory is visited: single elements up to the first address that is a multiple of 16, packs, single elements again.
template <class I> struct Stretch {
  I head, packs, tail, singles;
  template <class T> __device__ Stretch(const T* p, I length) {
    constexpr int P = kPack<T>;
    const int before = static_cast<int>((P - reinterpret_cast<unsigned long long>(p) / sizeof(T) % P) % P);
    head = before < length ? before : length;
    packs = (length - head) / P;
    tail = head + packs * P;
    singles = head + length - tail;
  }
  __device__ I single(I e) const { return e < head ? e : e - head + tail; }
};

// N consecutive elements from or to anywhere; in packs where the address allows. The packs travel as uint4 through __ldg and __stcs:
// written as plain assignments both branches are the same to the compiler, which then keeps the slower one for both.
template <int N, class T, class A> __device__ __forceinline__ void read(const T* p, A (&x)[N]) {
  constexpr int P = kPack<T>;
  if (N % P == 0 && aligned(p)) {
#pragma unroll
    for (int k = 0; k < N / P; k++) {
      const uint4 words = __ldg(reinterpret_cast<const uint4*>(p) + k);
      Pack<T> pack;
      memcpy(&pack, &words, sizeof pack);
#pragma unroll
      for (int j = 0; j < P; j++) x[k * P + j] = load(pack.at[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) x[j] = load(p[j]);
  }
}
template <int N, class T, class A> __device__ __forceinline__ void write(T* p, const A (&x)[N]) {
  constexpr int P = kPack<T>;
  if (N % P == 0 && aligned(p)) {
#pragma unroll
    for (int k = 0; k < N / P; k++) {
      Pack<T> pack;
      uint4 words;
#pragma unroll
      for (int j = 0; j < P; j++) store(pack.at[j], x[k * P + j]);
      memcpy(&words, &pack, sizeof words);
      __stcs(reinterpret_cast<uint4*>(p) + k, words);
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) store(p[j], x[j]);
  }
}

// Shared memory of this launch, and blocks that share theirs. The shim that runs the kernels on a CPU brings its own.
#ifdef __CUDACC__
template <class T> __device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char polyloss_shared[];
  return reinterpret_cast<T*>(polyloss_shared);
}
#if __CUDA_ARCH__ >= 900
template <int N> __device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
template <int N> __device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// The same place in another block's shared memory; 4 bytes at a time.
template <class T> __device__ __forceinline__ T load_remote(const T* own, unsigned rank) {
  static_assert(sizeof(T) % 4 == 0, "whole words");
  unsigned address, words[sizeof(T) / 4];
  asm("{ .reg .u64 s; cvta.to.shared.u64 s, %1; .reg .u32 l; cvt.u32.u64 l, s; mapa.shared::cluster.u32 %0, l, %2; }"
      : "=r"(address)
      : "l"(own), "r"(rank));
#pragma unroll
  for (int k = 0; k < static_cast<int>(sizeof(T) / 4); k++)
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(words[k]) : "r"(address + 4 * k) : "memory");
  T value;
  memcpy(&value, words, sizeof value);
  return value;
}
#endif
#endif

// What a block reports: sums over its positions in float64, and the first bad label.
constexpr long long kNone = 0x7fffffffffffffffll;
struct Sums {
  double total = 0, weight = 0, count = 0;
  long long bad = kNone;

  __device__ void add(const Sums& o) {
    total += o.total;
    weight += o.weight;
    count += o.count;
    bad = o.bad < bad ? o.bad : bad;
  }
};
// The sum over the block, in thread 0, always in the same order; `room` holds one Sums for each warp.
__device__ inline Sums sum_of_block(Sums s, Sums* room) {
  const int thread = threadIdx.x + blockDim.x * threadIdx.y, lane = thread % kWarp, warps = (blockDim.x * blockDim.y + kWarp - 1) / kWarp;
  for (int level = 0; level < 2; level++) {
#pragma unroll
    for (int by = kWarp / 2; by > 0; by /= 2) {
      Sums o;
      o.total = __shfl_xor_sync(kAll, s.total, by);
      o.weight = __shfl_xor_sync(kAll, s.weight, by);
      o.count = __shfl_xor_sync(kAll, s.count, by);
      o.bad = __shfl_xor_sync(kAll, s.bad, by);
      s.add(o);
    }
    if (level == 1) break;
    __syncthreads();  // the room may still be in other use
    if (lane == 0) room[thread / kWarp] = s;
    __syncthreads();
    s = lane < warps ? room[lane] : Sums();
  }
  return s;
}

// One block adds what all blocks of a launch reported. The divisor: a number, or by `kind` the count (1), the weights (2), *denominator
// (3).
template <class A>
__global__ void __launch_bounds__(256, 1)
    finish(const Sums* partials, int blocks, int kind, double divisor, const A* denominator, A* value, double* results) {
  Sums sums;
  for (int k = threadIdx.x; k < blocks; k += blockDim.x) sums.add(partials[k]);
  sums = sum_of_block(sums, shared_memory<Sums>());
  if (threadIdx.x != 0) return;
  if (kind == 1) divisor = sums.count > 1 ? sums.count : 1;
  if (kind == 2) divisor = sums.weight;
  if (kind == 3) divisor = *denominator;
  *value = static_cast<A>(divisor == 0 ? 0 : sums.total / divisor);  // nothing counted, nothing lost
  results[0] = divisor == 0 ? 0 : 1 / divisor;
  results[1] = sums.total;
  results[2] = sums.weight;
  results[3] = sums.count;
  results[4] = sums.bad == kNone ? -1 : static_cast<double>(sums.bad);
  results[5] = divisor;
}
