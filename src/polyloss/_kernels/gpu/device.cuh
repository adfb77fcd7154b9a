// What the CUDA kernels share of the device: storage types, 16-byte packs, threads that take a row together, clusters.
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
template <bool B, class T, class F> struct Either {
  using Type = T;
};
template <class T, class F> struct Either<false, T, F> {
  using Type = F;
};

__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(__half x) { return __half2float(x); }
__device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float& to, float x) { to = x; }
__device__ __forceinline__ void store(double& to, double x) { to = x; }
__device__ __forceinline__ void store(__half& to, float x) { to = __float2half_rn(x); }
__device__ __forceinline__ void store(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

// The first or the second of two 16-bit elements in a word.
__device__ __forceinline__ float load_half_of(__nv_bfloat16, unsigned word, bool second) {
  return __int_as_float(static_cast<int>(second ? word & 0xffff0000u : word << 16));
}
__device__ __forceinline__ float load_half_of(__half, unsigned word, bool second) {
  const unsigned short bits = static_cast<unsigned short>(second ? word >> 16 : word);
  __half x;
  memcpy(&x, &bits, sizeof x);
  return __half2float(x);
}

template <class A> __device__ __forceinline__ A infinity();
template <> __device__ __forceinline__ float infinity<float>() { return __int_as_float(0x7f800000); }
template <> __device__ __forceinline__ double infinity<double>() { return __longlong_as_double(0x7ff0000000000000ll); }
template <class A> __device__ __forceinline__ A nan_of() { return infinity<A>() - infinity<A>(); }

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }  // the one that is no NaN
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// A number that is computed here: where it is one side of a select, the compiler would else branch around an exponential, for each number.
#ifdef __CUDACC__
__device__ __forceinline__ float here(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
__device__ __forceinline__ double here(double x) {
  asm volatile("" : "+d"(x));
  return x;
}
#else
template <class A> inline A here(A x) { return x; }
#endif

// N elements in one memory access; 16 bytes is the widest. Registers hold them as words: a pack seen as 16-bit elements is taken apart and
// put together again by the compiler, two instructions for each.
template <class T> constexpr int kPack = 16 / sizeof(T);
template <class T, int N = kPack<T>> struct alignas(N * sizeof(T)) Pack {
  static constexpr bool kPairs = sizeof(T) == 2 && N % 2 == 0;  // of 16-bit elements in a word
  using Word = typename Either<kPairs, unsigned, T>::Type;
  Word word[kPairs ? N / 2 : N];
};
template <class T, int N, class A> __device__ __forceinline__ void unpack(const Pack<T, N>& pack, A (&x)[N]) {
#pragma unroll
  for (int j = 0; j < N; j++) {
    if constexpr (Pack<T, N>::kPairs)
      x[j] = load_half_of(T(), pack.word[j / 2], j % 2);
    else
      x[j] = load(pack.word[j]);
  }
}
template <class T, int N> __device__ __forceinline__ Pack<T, N> filled_with(Compute<T> x) {
  Pack<T, N> pack;
  T each[2];
  store(each[0], x);
  store(each[1], x);
#pragma unroll
  for (int j = 0; j < static_cast<int>(sizeof pack / sizeof pack.word[0]); j++) memcpy(&pack.word[j], each, sizeof pack.word[0]);
  return pack;
}
template <int BYTES, class T> __device__ __forceinline__ bool aligned(const T* p) {
  return reinterpret_cast<unsigned long long>(p) % BYTES == 0;
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

// N consecutive elements from or to anywhere; in packs where the address allows. The packs travel as words through __ldg and __stcs:
// written as plain assignments both branches are the same to the compiler, which then keeps the slower one for both.
template <int BYTES> struct Words {
  using Type = uint4;
};
template <> struct Words<8> {
  using Type = uint2;
};
template <class T, int N> constexpr int kAccess = N < kPack<T> ? N : kPack<T>;  // elements of one access
template <int N, class T, class A> __device__ __forceinline__ void read(const T* p, A (&x)[N]) {
  constexpr int P = kAccess<T, N>, BYTES = P * sizeof(T);
  if (N % P == 0 && BYTES >= 8 && aligned<BYTES>(p)) {
    using Word = typename Words<BYTES>::Type;
#pragma unroll
    for (int k = 0; k < N / P; k++) {
      const Word word = __ldg(reinterpret_cast<const Word*>(p) + k);
      Pack<T, P> pack;
      memcpy(&pack, &word, BYTES);
      A part[P];
      unpack(pack, part);
#pragma unroll
      for (int j = 0; j < P; j++) x[k * P + j] = part[j];
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) x[j] = load(p[j]);
  }
}
template <int N, class T, class A> __device__ __forceinline__ void write_packs(T* p, const A (&x)[N]) {  // p is aligned
  constexpr int P = kAccess<T, N>, BYTES = P * sizeof(T);
  using Word = typename Words<BYTES>::Type;
#pragma unroll
  for (int k = 0; k < N / P; k++) {
    T each[P];
    Word word;
#pragma unroll
    for (int j = 0; j < P; j++) store(each[j], x[k * P + j]);
    memcpy(&word, each, BYTES);
    __stcs(reinterpret_cast<Word*>(p) + k, word);
  }
}
template <int N, class T, class A> __device__ __forceinline__ void write(T* p, const A (&x)[N]) {
  constexpr int P = kAccess<T, N>, BYTES = P * sizeof(T);
  if constexpr (N % P == 0 && BYTES >= 8) {
    if (aligned<BYTES>(p)) {
      write_packs(p, x);
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < N; j++) store(p[j], x[j]);
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
// behind them lies that of the block's Sums (launch.cuh).
constexpr int kStates = 1088;  // of a room: 17 states of at most 64 bytes
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
struct Block {  // of a power of two of threads, at least a warp
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
    const int warps = size / kWarp;  // a power of two, as size is
    return merge_lanes(room[rank & (warps - 1)], warps);
  }
  __device__ void leave() const {}
};
