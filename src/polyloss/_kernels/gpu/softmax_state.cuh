// The running sum over the classes of a softmax, alone or with what targets add to it.
//
// One position's classes are seen as a State: the largest logit m so far, how many classes equal it (ones), and the sum of
// exp(z - m) over the others (rest). With s = ones + rest,
//     lse - m = log1p((ones - 1) + rest),   p_c = exp(z_c - m) / s,   and where z_c = m:  p_c - 1 = -((ones - 1) + rest) / s,
// so that -log p_y = (lse - m) + (m - z_y) adds two numbers that are never negative: a loss of 1e-12 keeps its digits, and so does the
// gradient p_y - 1 of a confident row. -inf adds 0 wherever it stands; a row of -inf, or with NaN or +inf, gives NaN.
#pragma once
#include "gpu/device.cuh"

// 16-bit logits: ex2 with 2 + 1.2 |x| ulp is far below their own rounding, and takes 3 instructions for 9.
template <class T> __device__ __forceinline__ Compute<T> exp_of(Compute<T> x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return exp(x);
}

// Sums over classes, relative to one m.
template <class A, bool WEIGHTED> struct ClassSums {
  A ones = 0, rest = 0;
  __device__ void join(const ClassSums& o) {
    ones += o.ones;
    rest += o.rest;
  }
};
template <class A> struct ClassSums<A, true> {
  A ones = 0, rest = 0;
  A u = 0;      // Σ u_c,  u_c = k_c t'_c: weighted, smoothed targets
  A below = 0;  // Σ u_c (m - z_c)
  A met = 0;    // Σ t_c exp(z_c - m) over the others
  A at_m = 0;   // Σ t_c over the classes that equal m
  A kt = 0;     // Σ k_c t_c
  __device__ void join(const ClassSums& o) {
    ones += o.ones;
    rest += o.rest;
    u += o.u;
    below += o.below;
    met += o.met;
    at_m += o.at_m;
    kt += o.kt;
  }
};
template <class T, bool WEIGHTED> struct State : ClassSums<Compute<T>, WEIGHTED> {
  using A = Compute<T>;
  using Sums = ClassSums<A, WEIGHTED>;
  A m = -infinity<A>();

  static __device__ A finite(A m) { return m == -infinity<A>() ? A(0) : m; }  // a reference that can be subtracted from -inf

  __device__ void raise(A top) {
    if (!(top > m)) return;
    const A shrink = exp_of<T>(m - top);
    this->rest = (this->ones + this->rest) * shrink;
    this->ones = 0;
    if constexpr (WEIGHTED) {
      if (this->u != 0) this->below += this->u * (top - finite(m));
      this->met = (this->met + this->at_m) * shrink;
      this->at_m = 0;
    }
    m = top;
  }
  __device__ A add(A z) {  // z <= m, after raise(); no branch, so that the exponentials of neighbours overlap; exp(0) is exactly 1
    const A d = z - finite(m), e = exp_of<T>(d), one = d == 0 ? A(1) : A(0);
    this->ones += one;
    this->rest += e - one;
    return e;
  }
  __device__ void add(A z, A t, A k, A u) {
    const A e = add(z);
    const bool top = z == finite(m);
    this->u += u;
    if (u != 0) this->below += u * (finite(m) - z);  // 0 * inf = 0: an impossible class with target 0 costs nothing
    this->met += top ? A(0) : t * e;
    this->at_m += top ? t : A(0);
    this->kt += k * t;
  }
};
// Lanes agree on the largest logit first, so that each rescales its sums once: a third of what pairs of states cost.
template <class T, bool WEIGHTED> __device__ State<T, WEIGHTED> merge_lanes(State<T, WEIGHTED> state, int lanes) {
  Compute<T> top = state.m;
  for (int by = lanes / 2; by > 0; by /= 2) top = larger(top, __shfl_xor_sync(kAll, top, by));
  state.raise(top);
  typename State<T, WEIGHTED>::Sums sums = state;
  for (int by = lanes / 2; by > 0; by /= 2) sums.join(shuffled(sums, by));
  static_cast<typename State<T, WEIGHTED>::Sums&>(state) = sums;
  return state;
}
