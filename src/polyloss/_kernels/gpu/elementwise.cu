// The elementwise losses on a GPU: values, their sum, gradient and Hessian diagonal in one pass over targets and predictions.
//
// The formulas are those of formulas/elementwise.h, compiled once for float and once for double. Predictions lie as (n, c, s); the c
// elements of each of the n * s positions make one loss, their sum or mean, which may have a weight.
//
// flat      no position's own loss is asked for and all weights are equal: element by element, whatever position it is of.
// rows      s = 1: some lanes of a warp, or a block, take a position.
// columns   positions are contiguous: a thread takes as many as 16 bytes hold, and walks over their elements.
// A block writes its sums to `partials`; finish() of launch.cuh adds them in a fixed order. A position of weight 0 is skipped, not
// multiplied: NaN behind it reaches neither a sum nor a derivative.
#include "gpu/formulas.cuh"
#include "gpu/launch.cuh"

constexpr int kParameters = 8;
constexpr int kThreads = 256;

// One loss as a type: the kernels' argument.
#define AS_TYPE(name, count, names)                                                                                                   \
  struct name {                                                                                                                       \
    template <class A> static __device__ __forceinline__ A value(A t, A p, const A* a) { return Formulas<A>::name##_value(t, p, a); } \
    template <class A> static __device__ __forceinline__ A slope(A t, A p, const A* a) { return Formulas<A>::name##_slope(t, p, a); } \
    template <class A> static __device__ __forceinline__ A curvature(A t, A p, const A* a) {                                          \
      return Formulas<A>::name##_curvature(t, p, a);                                                                                  \
    }                                                                                                                                 \
  };
FORMULAS(AS_TYPE)
#undef AS_TYPE

template <class T> struct Elements : Launch<T> {
  const double* scan;  // (), or null: the first parameter is 1 where this is 0, else 0
  double parameters[kParameters];
  double mean;  // 1 / c or 1: what a position's sum is multiplied by
};

// What the threads of a launch know alike.
template <class T, class Loss> struct Evaluation {
  using A = Compute<T>;
  const Elements<T>& job;
  A a[kParameters];
  double factor;
  __device__ explicit Evaluation(const Elements<T>& j) : job(j), factor(divides_by_0(j) ? kNoSlopes : j.mean * factor_of(j) + 0.0) {
#pragma unroll
    for (int k = 0; k < kParameters; k++) a[k] = static_cast<A>(job.parameters[k]);
    if (job.scan) a[0] = *job.scan == 0;
  }

  static __device__ A times(A k, A x) { return hides(k) ? A(0) : k * x; }
  // N neighbours from offset `at`, of weights w, by which derivatives have the factors k: their values; their derivatives are written.
  template <int N> __device__ __forceinline__ void neighbours(long long at, const A (&w)[N], const A (&k)[N], A (&value)[N]) const {
    A t[N], p[N], out[N];
    read(static_cast<const A*>(job.y) + at, t);
    read(job.z + at, p);
#pragma unroll
    for (int j = 0; j < N; j++) value[j] = w[j] == 0 ? A(0) : Loss::value(t[j], p[j], a);
    if (job.grad) {
#pragma unroll
      for (int j = 0; j < N; j++) out[j] = times(k[j], Loss::slope(t[j], p[j], a));
      write(job.grad + at, out);
    }
    if (job.hess) {
#pragma unroll
      for (int j = 0; j < N; j++) out[j] = times(k[j], Loss::curvature(t[j], p[j], a));
      write(job.hess + at, out);
    }
  }
  // The sum of the values of `length` elements from `at`, by `size` threads of which this is the one of that rank.
  __device__ double stretch(long long at, long long length, long long rank, long long size, A w) const {
    constexpr int V = kPack<T>;
    const Stretch<long long> of(job.z + at, length);
    const A k = single_factor(factor, w);
    A weights[V], factors[V], value[V], one[1], single[1] = {w}, of_single[1] = {k};
#pragma unroll
    for (int j = 0; j < V; j++) weights[j] = w, factors[j] = k;
    double sum = 0;
    for (long long e = rank; e < of.singles; e += size) {
      neighbours(at + of.single(e), single, of_single, one);
      sum += one[0];
    }
#pragma unroll 2
    for (long long i = rank; i < of.packs; i += size) {
      neighbours(at + of.head + i * V, weights, factors, value);
      A v = 0;
#pragma unroll
      for (int j = 0; j < V; j++) v += value[j];
      sum += v;
    }
    return sum;
  }
};
template <class T> __device__ void report(const Elements<T>& job, long long i, double sum, Compute<T> w, Sums& sums) {
  const double loss = w == 0 ? 0 : sum * job.mean * w;
  if (job.losses) job.losses[i] = static_cast<Compute<T>>(loss);
  sums.total += loss;
  sums.weight += w;
  sums.count += 1;
}
template <class T, class Loss> __global__ void __launch_bounds__(kThreads, 1) flat(const Elements<T> job) {
  const Evaluation<T, Loss> evaluation(job);
  const Compute<T> w = weight_of(job, 0, 0);
  const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x,
                  threads = static_cast<long long>(gridDim.x) * blockDim.x;
  Sums sums;
  sums.total = evaluation.stretch(0, job.n * job.c * job.s, thread, threads, w) * job.mean * (w == 0 ? 0 : w);
  if (thread == 0) {
    sums.count = static_cast<double>(job.n * job.s);
    sums.weight = sums.count * w;
  }
  hand_in(job, sums);
}

template <class T, class Loss> __global__ void __launch_bounds__(kThreads, 1) rows(const Elements<T> job) {
  const Evaluation<T, Loss> evaluation(job);
  const int size = job.lanes ? job.lanes : blockDim.x, rank = threadIdx.x % size, at_once = blockDim.x / size;
  Sums sums;
  for (long long first = static_cast<long long>(blockIdx.x) * at_once; first < job.n;
       first += static_cast<long long>(gridDim.x) * at_once) {
    const long long row = first + threadIdx.x / size;
    const bool inside = row < job.n;
    const Compute<T> w = inside ? weight_of(job, row, 0) : 0;
    double sum = inside ? evaluation.stretch(row * job.c, job.c, rank, size, w) : 0;
    if (job.lanes) {
      for (int by = size / 2; by > 0; by /= 2) sum += __shfl_xor_sync(kAll, sum, by);
    } else {
      Sums of_row;
      of_row.total = sum;
      sum = sum_of_block(of_row, room_of_sums()).total;
    }
    if (rank == 0 && inside) report(job, row, sum, w, sums);
  }
  hand_in(job, sums);
}

template <class T, class Loss, int V> __global__ void __launch_bounds__(kThreads, 1) columns(const Elements<T> job) {
  using A = Compute<T>;
  const Evaluation<T, Loss> evaluation(job);
  const long long vectors = job.n * (job.s / V), thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  Sums sums;
  for (long long vector = thread; vector < vectors; vector += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long n = vector / (job.s / V), s = vector % (job.s / V) * V;
    A w[V], k[V], value[V];
    double sum[V] = {};
#pragma unroll
    for (int v = 0; v < V; v++) w[v] = weight_of(job, n, s + v), k[v] = single_factor(evaluation.factor, w[v]);
#pragma unroll 2
    for (long long c = 0; c < job.c; c++) {
      evaluation.neighbours((n * job.c + c) * job.s + s, w, k, value);
#pragma unroll
      for (int v = 0; v < V; v++) sum[v] += value[v];
    }
#pragma unroll
    for (int v = 0; v < V; v++) report(job, n * job.s + s + v, sum[v], w[v], sums);
  }
  hand_in(job, sums);
}

// How many targets are neither 0 nor 1, at positions of weight other than 0.
template <class T> __global__ void __launch_bounds__(kThreads, 1) not_binary(const Elements<T> job) {
  Sums sums;
  const long long all = job.n * job.c * job.s, thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (long long i = thread; i < all; i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const Compute<T> t = static_cast<const Compute<T>*>(job.y)[i];
    if (t == 0 || t == 1) continue;
    const long long n = i / (job.c * job.s), s = i % job.s;
    if (weight_of(job, n, s) != 0) sums.count += 1;
  }
  hand_in(job, sums);
}
