// The running sum over the classes of a softmax, alone or with what targets add to it.
//
// One position's classes are seen as a State: the largest logit m so far, how many classes equal it (ones), and the sum of
// exp(z - m) over the others (rest). With s = ones + rest,
//     lse - m = log1p((ones - 1) + rest),   p_c = exp(z_c - m) / s,   and where z_c = m:  p_c - 1 = -((ones - 1) + rest) / s,
// so that -log p_y = (lse - m) + (m - z_y) adds two numbers that are never negative: a loss of 1e-12 keeps its digits, and so does the
// gradient p_y - 1 of a confident row. -inf adds 0 wherever it stands; a row of -inf, or with NaN or +inf, gives NaN.
#pragma once
#include "device.cuh"

// 16-bit logits: ex2 with 2 + 1.2 |x| ulp is far below their own rounding, and takes 3 instructions for 9.
template <class T> __device__ __forceinline__ Compute<T> exp_of(Compute<T> x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return exp(x);
}

template <class A, bool WEIGHTED> struct TargetSums {};
template <class A> struct TargetSums<A, true> {
  A u = 0;      // Σ u_c,  u_c = k_c t'_c: weighted, smoothed targets
  A below = 0;  // Σ u_c (m - z_c)
  A met = 0;    // Σ t_c exp(z_c - m)
  A kt = 0;     // Σ k_c t_c
};
template <class T, bool WEIGHTED> struct State : TargetSums<Compute<T>, WEIGHTED> {
  using A = Compute<T>;
  A m = -infinity<A>(), ones = 0, rest = 0;

  static __device__ A finite(A m) { return m == -infinity<A>() ? A(0) : m; }  // a reference that can be subtracted from -inf

  __device__ void raise(A top) {
    if (!(top > m)) return;
    const A shrink = exp_of<T>(m - top);
    rest = (ones + rest) * shrink;
    ones = 0;
    if constexpr (WEIGHTED) {
      if (this->u != 0) this->below += this->u * (top - finite(m));
      this->met *= shrink;
    }
    m = top;
  }
  __device__ A add(A z) {  // z <= m, after raise()
    const A d = z - finite(m), e = exp_of<T>(d);
    if (d == 0)
      ones += 1;
    else
      rest += e;
    return e;
  }
  __device__ void add(A z, A t, A k, A u) {
    const A e = add(z);
    this->u += u;
    if (u != 0) this->below += u * (finite(m) - z);  // 0 * inf = 0: an impossible class with target 0 costs nothing
    this->met += t * e;
    this->kt += k * t;
  }
  __device__ void merge(const State& o) {
    const A top = larger(m, o.m);
    const A shrink = m == top ? A(1) : exp_of<T>(m - top), shrink_o = o.m == top ? A(1) : exp_of<T>(o.m - top);
    rest = (m == top ? rest : (ones + rest) * shrink) + (o.m == top ? o.rest : (o.ones + o.rest) * shrink_o);
    ones = (m == top ? ones : A(0)) + (o.m == top ? o.ones : A(0));
    if constexpr (WEIGHTED) {
      const A moved = this->u == 0 ? A(0) : this->u * (finite(top) - finite(m)),
              moved_o = o.u == 0 ? A(0) : o.u * (finite(top) - finite(o.m));
      this->below = (this->below + moved) + (o.below + moved_o);
      this->met = this->met * shrink + o.met * shrink_o;
      this->u += o.u;
      this->kt += o.kt;
    }
    m = top;
  }
};
