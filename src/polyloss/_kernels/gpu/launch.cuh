// What a launch is told of a call, what is known of a position before its classes are looked at, and what blocks report.
#pragma once
#include "formulas/factor.h"
#include "gpu/device.cuh"

constexpr int kDivisor = 5;  // its place among the numbers that `finish` leaves
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

// What every kernel over predictions is told; cuda.py fills it by a dtype of the same fields. Each file adds its own behind these.
constexpr int kIgnores = 8;
template <class T> struct Launch {
  using A = Compute<T>;
  const T* z;             // (n, c, s) predictions or logits
  const void* y;          // (n, s) labels, or (n, c, s) targets of type A
  const A* class_weight;  // (c,), or null: 1
  const A* weight;        // (n, s) by its strides, or null: 1
  const double* factor;   // (), or null: multiplies the derivatives, as scale does
  A* losses;              // (n, s), or null
  T* grad;                // (n, c, s), or null
  T* hess;                // (n, c, s), or null
  Sums* partials;         // (blocks,)
  long long n, c, s;
  long long weight_n, weight_s;  // strides, in elements
  long long ignore[kIgnores];
  double scale;  // of the derivatives
  int ignores;
  int label_kind;  // as class_of() knows them; 0: targets
  int lanes;       // for each row
  int kept;        // packs in shared memory, of softmax_xent.cu
};

// The class of a position, kIgnored or kBad. Integers are compared in 64 bits, extended by their own sign, as the ignored values were; of
// these the caller left out those that the labels' dtype does not have: nothing wraps.
constexpr long long kIgnored = -1;  // in place of a class
constexpr long long kBad = -2;
template <class T> __device__ long long class_of(const Launch<T>& job, long long i) {
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
template <class T> __device__ __forceinline__ Compute<T> weight_of(const Launch<T>& job, long long n, long long s) {
  return job.weight ? job.weight[n * job.weight_n + s * job.weight_s] : Compute<T>(1);
}
// What multiplies the derivatives.
template <class T> __device__ __forceinline__ double factor_of(const Launch<T>& job) {
  return job.factor ? job.scale * *job.factor : job.scale;
}
template <class A> __device__ __forceinline__ A least_normal() { return sizeof(A) == 4 ? A(0x1p-126) : A(0x1p-1022); }
// Whether what multiplies them is 0 since the divisor is, and not since that is infinite: then they are 0, NaN included.
template <class T> __device__ __forceinline__ bool divides_by_0(const Launch<T>& job) {
  return job.factor ? job.factor[kDivisor] == 0 : job.scale == 0;
}
// What multiplies those of a position: `first`, and the result then `rest`, which is 1 where their product is a normal number; first is 0
// where the weight is, or the divisor.
template <class A> struct Factor {
  A first, rest;
};
template <class A> __device__ __forceinline__ Factor<A> factor_of(double all, bool by_0, A weight) {
  const A k = static_cast<A>(all * weight), size = k < 0 ? -k : k;
  const A normal = least_normal<A>(), most = sizeof(A) == 4 ? A(0x1.fffffep127) : A(0x1.fffffffffffffp1023);
  if (by_0 || weight == 0) return {0, 1};
  if (size >= normal && size <= most) return {k, 1};
  if (all == 0) return {1, k};
  const split_factor two = in_two(all, weight, normal, normal);
  return {static_cast<A>(two.first), static_cast<A>(two.rest)};
}
// The same as one number, where registers are short: instead of what is below the normal numbers the least of them, lest it hide NaN.
// -0 says that a position has no slopes, NaN included: its weight is 0, or `all` is -0, since the divisor is 0. Of an infinite divisor
// `all` is +0, by which slopes are multiplied.
constexpr double kNoSlopes = -0.0;
__device__ __forceinline__ bool hides(float k) { return __float_as_int(k) == static_cast<int>(0x80000000); }
__device__ __forceinline__ bool hides(double k) { return __double_as_longlong(k) == static_cast<long long>(0x8000000000000000ull); }
template <class A> __device__ __forceinline__ A single_factor(double all, A weight) {
  if (weight == 0 || hides(all)) return A(kNoSlopes);
  const A k = static_cast<A>(all * weight);
  if (all == 0) return k + A(0);
  return k != 0 ? k : (all < 0) == (weight < 0) ? least_normal<A>() : -least_normal<A>();
}
// What a position's weight adds to their sum, by the weight of its targets: nothing where either is 0, whatever the other.
__device__ __forceinline__ double counted(double weight, double of_targets) {
  return weight == 0 || of_targets == 0 ? 0 : weight * of_targets;
}

// A block's last act.
template <class T> __device__ __forceinline__ void hand_in(const Launch<T>& job, Sums sums) {
  sums = sum_of_block(sums, room_of_sums());
  if (threadIdx.x + threadIdx.y == 0) job.partials[blockIdx.x] = sums;
}

template <class T> struct Position {
  using A = Compute<T>;
  A weight;   // of the sample
  A fill;     // what a position gets that is skipped (0) or has a bad label (NaN)
  int y;      // its class, kIgnored or kBad; 0 for targets
  bool live;  // neither skipped nor bad

  __device__ Position() {}
  __device__ Position(const Launch<T>& job, long long n, long long s, bool inside) {
    const long long c = !inside ? kIgnored : job.label_kind ? class_of(job, n * job.s + s) : 0;
    weight = inside ? weight_of(job, n, s) : A(0);
    fill = c == kBad ? nan_of<A>() : A(0);
    y = static_cast<int>(c);
    live = c >= 0 && weight != 0;
  }
  // Its loss, before the weight, and the sum of its targets; `i`: its place in (n, s).
  __device__ void report(const Launch<T>& job, double value, double targets, long long i, Sums& sums) const {
    const double loss = live ? weight * value : fill;
    if (job.losses) job.losses[i] = static_cast<A>(loss);
    sums.total += loss;
    if (y >= 0) sums.weight += counted(weight, targets);
    sums.count += y != kIgnored;
    if (y == kBad && i < sums.bad) sums.bad = i;
  }
};

// One block adds what all blocks of a launch reported. The divisor: a number, or by `kind` the count (1), the weights (2), *denominator,
// of type A (3) or a double (4).
//
// Where the divisor is below every normal number of type A, its reciprocal may be none: results[0] is that of its mantissa alone, and
// `shift` does the rest when the derivatives are written. No sum of weights is that small, for subnormal ones count as 0.
template <class A>
__global__ void __launch_bounds__(512, 1)
    finish(const Sums* partials, int blocks, int kind, double divisor, const void* denominator, A* value, double* results) {
  Sums sums;
#pragma unroll 8
  for (int k = threadIdx.x; k < blocks; k += blockDim.x) sums.merge(partials[k]);
  sums = sum_of_block(sums, room_of_sums());
  if (threadIdx.x != 0) return;
  if (kind == 1) divisor = sums.count > 1 ? sums.count : 1;
  if (kind == 2) divisor = sums.weight;
  if (kind == 3) divisor = *static_cast<const A*>(denominator);
  if (kind == 4) divisor = *static_cast<const double*>(denominator);
  *value = static_cast<A>(divisor == 0 ? 0 : sums.total / divisor);  // nothing counted, nothing lost
  int exponent = 0;
  const double least = sizeof(A) == 4 ? 0x1p-126 : 0x1p-1022;
  const double mantissa = kind != 1 && kind != 2 && fabs(divisor) < least ? frexp(divisor, &exponent) : divisor;
  results[0] = divisor == 0 ? 0 : 1 / mantissa;
  results[1] = sums.total;
  results[2] = sums.weight;
  results[3] = sums.count;
  results[4] = sums.bad == kNone ? -1 : static_cast<double>(sums.bad);
  results[kDivisor] = divisor;
  results[6] = -exponent;
}

// Multiplies derivatives by the power of two that `finish` left out.
template <class T> __global__ void __launch_bounds__(256, 1) shift(T* grad, T* hess, long long count, const double* numbers) {
  const int power = static_cast<int>(numbers[6]);
  if (power == 0) return;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    if (grad) store(grad[i], static_cast<Compute<T>>(ldexp(static_cast<double>(load(grad[i])), power)));
    if (hess) store(hess[i], static_cast<Compute<T>>(ldexp(static_cast<double>(load(hess[i])), power)));
  }
}

// The same sums from labels and weights alone: what a derivative is divided by must be known before it is written.
template <class A> __global__ void __launch_bounds__(256, 1) position_sums(const Launch<A> job) {
  Sums sums;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < job.n * job.s;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long c = job.label_kind ? class_of(job, i) : 0;
    sums.count += c != kIgnored;
    if (c < 0) continue;  // the weight of a bad label is in no sum
    sums.weight += counted(weight_of(job, i / job.s, i % job.s), job.class_weight ? job.class_weight[c] : 1);
  }
  hand_in(job, sums);
}
