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

// The class of a position, kIgnored or kBad; `job` says of the labels where they are, their kind, and which of them are ignored. Integers
// are compared in 64 bits, extended by their own sign, as the ignored values were; of these the caller left out those that the labels' dtype
// does not have: nothing wraps.
constexpr int kIgnores = 8;
constexpr long long kIgnored = -1;  // in place of a class
constexpr long long kBad = -2;
template <class J> __device__ long long class_of(const J& job, long long i) {
  long long y;
  switch (job.label_kind) {  // 1, 2, 4, 8: bytes of a signed integer, negative: of an unsigned one; 14, 18: floats of 4 and 8
    case 1: y = static_cast<const signed char*>(job.y)[i]; break;
    case 2: y = static_cast<const short*>(job.y)[i]; break;
    case 4: y = static_cast<const int*>(job.y)[i]; break;
    case -1: y = static_cast<const unsigned char*>(job.y)[i]; break;
    case -2: y = static_cast<const unsigned short*>(job.y)[i]; break;
    case -4: y = static_cast<const unsigned*>(job.y)[i]; break;
    case 14:
    case 18: {
      const double f = job.label_kind == 14 ? static_cast<const float*>(job.y)[i] : static_cast<const double*>(job.y)[i];
      if (!(fabs(f) <= 9007199254740992.0) || f != floor(f)) return kBad;
      y = static_cast<long long>(f);
      break;
    }
    default: y = static_cast<const long long*>(job.y)[i];
  }
  for (int k = 0; k < job.ignores; k++)
    if (y == job.ignore[k]) return kIgnored;
  return static_cast<unsigned long long>(y) < static_cast<unsigned long long>(job.c) ? y : kBad;
}
// The weight of a position.
template <class J> __device__ __forceinline__ auto weight_of(const J& job, long long n, long long s) {
  return job.weight ? job.weight[n * job.weight_n + s * job.weight_s] : typename J::A(1);
}

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

// A thread's state from the lane that is `by` away.
template <class S> __device__ __forceinline__ S shuffled(const S& state, int by) {
  static_assert(sizeof(S) % 4 == 0, "whole words");
  unsigned words[sizeof(S) / 4];
  S other;
  memcpy(words, &state, sizeof state);
#pragma unroll
  for (int k = 0; k < static_cast<int>(sizeof(S) / 4); k++) words[k] = __shfl_xor_sync(kAll, words[k], by);
  memcpy(&other, words, sizeof other);
  return other;
}
template <class S> __device__ S merge_lanes(S state, int lanes) {
  for (int by = lanes / 2; by > 0; by /= 2) state.merge(shuffled(state, by));
  return state;
}

// Who takes a row of classes. Each group says which rows and which classes of them are its own, and merges the states of its threads, which
// know how to merge(); the result is in all of them. Shared memory begins with two rooms for that, of a state for each warp and one more;
// behind them lies that of the block's Sums.
constexpr int kStates = 1024;  // of a room: 17 states of at most 56 bytes
constexpr int kRoom = 2 * kStates + 512;
template <class S> __device__ __forceinline__ S* states(int turn) {
  static_assert(17 * sizeof(S) <= kStates, "a room is for 16 warps and one state more");
  return reinterpret_cast<S*>(shared_memory<unsigned char>() + turn * kStates);
}
struct Lanes {  // a power of two, neighbours in a warp
  static constexpr bool kColumn = false, kReads = true, kWrites = true;
  int size, rank, index;
  __device__ explicit Lanes(int lanes) : size(lanes), rank(threadIdx.x % lanes), index(threadIdx.x / lanes) {}
  __device__ long long rows_at_once() const { return static_cast<long long>(gridDim.x) * (blockDim.x / size); }
  __device__ long long first_row() const { return static_cast<long long>(blockIdx.x) * (blockDim.x / size); }
  __device__ long long first_class(long long) const { return 0; }
  __device__ long long end_class(long long c) const { return c; }
  __device__ bool leads() const { return rank == 0; }
  template <class S> __device__ S merge(S state, int, long long = 0) const { return merge_lanes(state, size); }
  __device__ void leave() const {}
};
struct Block {
  static constexpr bool kColumn = false, kReads = true, kWrites = true;
  int size = blockDim.x, rank = threadIdx.x, index = 0;
  __device__ long long rows_at_once() const { return gridDim.x; }
  __device__ long long first_row() const { return blockIdx.x; }
  __device__ long long first_class(long long) const { return 0; }
  __device__ long long end_class(long long c) const { return c; }
  __device__ bool leads() const { return rank == 0; }
  // `turn` alternates between two rooms: no thread can be two merges ahead of another, so one barrier is enough.
  template <class S> __device__ S merge(S state, int turn, long long = 0) const {
    S* room = states<S>(turn);
    state = merge_lanes(state, kWarp);
    if (rank % kWarp == 0) room[rank / kWarp] = state;
    __syncthreads();
    return merge_lanes(rank % kWarp < size / kWarp ? room[rank % kWarp] : S(), kWarp);
  }
  __device__ void leave() const {}
};

// What a block reports: sums over its positions in float64, and the first bad label.
constexpr long long kNone = 0x7fffffffffffffffll;
struct Sums {
  double total = 0, weight = 0, count = 0;
  long long bad = kNone;

  __device__ void merge(const Sums& o) {
    total += o.total;
    weight += o.weight;
    count += o.count;
    bad = o.bad < bad ? o.bad : bad;
  }
};
__device__ inline Sums* room_of_sums() { return reinterpret_cast<Sums*>(shared_memory<unsigned char>() + 2 * kStates); }
// The sum over the block, in thread 0, always in the same order; `room` holds one Sums for each warp.
__device__ inline Sums sum_of_block(Sums s, Sums* room) {
  const int thread = threadIdx.x + blockDim.x * threadIdx.y, lane = thread % kWarp, warps = (blockDim.x * blockDim.y + kWarp - 1) / kWarp;
  for (int level = 0; level < 2; level++) {
    s = merge_lanes(s, kWarp);
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
  for (int k = threadIdx.x; k < blocks; k += blockDim.x) sums.merge(partials[k]);
  sums = sum_of_block(sums, room_of_sums());
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
