// The losses that consume a row of classes on a GPU, except the softmax cross-entropies: values, their sum, gradient and Hessian diagonal.
//
// The formulas are those of formulas/rowwise.h, as on the CPU. Predictions lie as (n, c, s). A position is looked at up to three times: for
// what each class's term must know of its row (Seen: a sum, the largest entry), for the sum of the terms (Terms), and to write derivatives.
// Only the first look comes from device memory as long as rows fit into the caches: 1000 classes of float32 are 8 KB with their targets.
//
// rows_lanes, rows_block   s = 1: some lanes of a warp, or a block, take a position.
// columns                  positions are contiguous: a thread takes one and walks over its classes, beside those of its neighbours.
// The own term of a class is taken out of a sum where the difference would cancel: it must be the number that went into it, to the last
// bit. So this file is compiled without fused multiply-adds. A position that is ignored or of weight 0 is not looked at.
#include "gpu/formulas.cuh"
#include "gpu/launch.cuh"
#include "gpu/softmax_state.cuh"

constexpr int kThreads = 256;

template <class T> struct Rows : Launch<T> {
  double parameters[ROWWISE_PARAMETERS];
};

// ---- losses -----------------------------------------------------------------------------------------------------------------------------

// A loss is made for a row, with its label and the prediction there if it is kLabelled; see() takes in a class, know() what was seen of
// all, add() the term of a class, conclude() their sum and the factor k of the derivatives, and gives the value; then slope() and
// curvature() are asked for.

// Σ x as high + low, right to the last place of low. Floats are added as doubles, doubles with the error of every sum
// [Knuth, TAOCP 2, 4.2.2].
template <class A> struct RowSum {
  double high = 0, low = 0;
  __device__ void add(double x) {
    const double t = high + x, b = t - high;
    if constexpr (sizeof(A) == 8) low += (high - (t - b)) + (x - b);
    high = t;
  }
  __device__ void merge(const RowSum& o) {
    add(o.high);
    low += o.low;
  }
};
template <class A> struct OfSum {  // share_of() with the parts of a sum
  double sum;
  A high, low, inverse, epsilon;
  __device__ void know(const RowSum<A>& seen) {
    sum = seen.high;
    high = static_cast<A>(sum);
    low = static_cast<A>((sum - static_cast<double>(high)) + seen.low);
    if (!(high - high == 0 && high != 0)) high = nan_of<A>();  // which has no shares
    inverse = static_cast<A>(1 / sum);
  }
  __device__ auto share(A p) const { return Formulas<A>::share_of(p, high, low, inverse, epsilon); }
  __device__ A per_sum(double k) const { return static_cast<A>(k / sum); }
  __device__ static A slope(A x, A per_sum) { return Formulas<A>::per_sum(x, per_sum); }
  __device__ A curvature(A x, A per_sum) const { return Formulas<A>::per_sum(Formulas<A>::per_sum(x, per_sum), inverse); }
};

struct Nothing {};
struct ThreeSums {
  double value = 0, first = 0, second = 0;
  __device__ void merge(const ThreeSums& o) {
    value += o.value;
    first += o.first;
    second += o.second;
  }
};

template <class T, bool FOCAL> struct Shares {
  static constexpr bool kLabelled = false, kSees = true, kTerms = true;
  using A = Compute<T>;
  using F = Formulas<A>;
  using Seen = RowSum<A>;
  using Terms = ThreeSums;
  A alpha, gamma, keep, spread;
  OfSum<A> of;
  bool grad, hess;
  A pull, bend, per_sum, k;

  __device__ Shares(const Rows<T>& job, int, A) : grad(job.grad || job.hess), hess(job.hess) {
    const double* a = job.parameters;
    alpha = static_cast<A>(a[0]), gamma = static_cast<A>(a[1]);
    of.epsilon = static_cast<A>(a[FOCAL ? 2 : 0]);
    const A smoothing = static_cast<A>(a[FOCAL ? 3 : 1]);
    keep = 1 - smoothing, spread = smoothing / static_cast<A>(job.c);
  }
  __device__ static void see(Seen& seen, A, A p, long long) { seen.add(p); }
  __device__ void know(const Seen& seen) { of.know(seen); }
  __device__ A target(A t) const { return keep * t + spread; }
  __device__ void add(Terms& terms, A t, A p) const {
    const auto s = of.share(p);
    terms.value += F::share_value(FOCAL, target(t), s, alpha, gamma);
    if (!grad) return;
    const A first = F::share_first(FOCAL, target(t), s, alpha, gamma);
    terms.first += first;
    if (hess) terms.second += F::share_bend(first, F::share_second(FOCAL, target(t), s, alpha, gamma));
  }
  __device__ double conclude(const Terms& terms, A factor) {
    pull = static_cast<A>(terms.first), bend = static_cast<A>(terms.second);
    per_sum = of.per_sum(factor), k = factor;
    return terms.value + 0 * static_cast<double>(of.high);  // NaN of no shares, even if every target is 0
  }
  __device__ A slope(A t, A p, long long) const {
    const auto s = of.share(p);
    const A first = F::share_first(FOCAL, target(t), s, alpha, gamma);
    return F::share_derivative(F::is_small(p, of.high), k, F::share_slope(p, of.high, s, first), first - pull, per_sum, A(1));
  }
  __device__ A curvature(A t, A p, long long) const {
    const auto s = of.share(p);
    const A first = F::share_first(FOCAL, target(t), s, alpha, gamma), second = F::share_second(FOCAL, target(t), s, alpha, gamma);
    const A own = F::share_curvature(p, of.high, s, first, second), others = bend - F::share_bend(first, second);
    return F::share_derivative(F::is_small(p, of.high), k, own, others, per_sum, of.inverse);
  }
};
template <class T> using categorical_crossentropy = Shares<T, false>;
template <class T> using categorical_focal_crossentropy = Shares<T, true>;

template <class T> struct sparse_categorical_crossentropy {
  static constexpr bool kLabelled = true, kSees = true, kTerms = false;
  using A = Compute<T>;
  using F = Formulas<A>;
  using Seen = RowSum<A>;
  using Terms = Nothing;
  OfSum<A> of;
  long long y;
  double value;
  A p_y, label_slope, other_slope, label_curvature, other_curvature;

  __device__ sparse_categorical_crossentropy(const Rows<T>& job, int label, A own) : y(label), p_y(own) {
    of.epsilon = static_cast<A>(job.parameters[0]);
  }
  __device__ static void see(Seen& seen, A, A p, long long) { seen.add(p); }
  __device__ void know(const Seen& seen) {
    of.know(seen);
    const auto s = of.share(p_y);
    value = -s.log;
    label_slope = F::label_slope(p_y, s), other_slope = F::other_slope(s);
    label_curvature = F::label_curvature(p_y, s), other_curvature = F::other_curvature(s);
  }
  __device__ double conclude(const Terms&, A k) {
    const A per_sum = of.per_sum(k);
    label_slope *= k, other_slope = of.slope(other_slope, per_sum);
    label_curvature *= k, other_curvature = of.curvature(other_curvature, per_sum);
    return value;
  }
  __device__ A slope(A, A, long long c) const { return c == y ? label_slope : other_slope; }
  __device__ A curvature(A, A, long long c) const { return c == y ? label_curvature : other_curvature; }
};

template <class T> struct categorical_focal_crossentropy_from_logits {
  static constexpr bool kLabelled = false, kSees = true, kTerms = true;
  using A = Compute<T>;
  using F = Formulas<A>;
  using Seen = State<T, false>;
  struct Terms {  // of the classes whose q is at least 1/2, and of the one that may be nearer to p = 1
    double value = 0, far_first = 0, near_first = 0, far_bend = 0, near_second = 0, near_q = 0;
    __device__ void merge(const Terms& o) {
      value += o.value;
      far_first += o.far_first, near_first += o.near_first;
      far_bend += o.far_bend, near_second += o.near_second, near_q += o.near_q;
    }
  };
  struct Class {
    A l, p, q;  // log softmax, softmax, 1 - softmax
  };
  A alpha, gamma, keep, spread;
  bool grad, hess;
  A m, log_sum, inverse, rest;
  A far, near, all, bend, near_second, near_q, k;

  __device__ categorical_focal_crossentropy_from_logits(const Rows<T>& job, int, A) : grad(job.grad || job.hess), hess(job.hess) {
    const double* a = job.parameters;
    alpha = static_cast<A>(a[0]), gamma = static_cast<A>(a[1]);
    const A smoothing = static_cast<A>(a[2]);
    keep = 1 - smoothing, spread = smoothing / static_cast<A>(job.c);
  }
  __device__ static void see(Seen& seen, A, A z, long long) {
    seen.raise(z);
    seen.add(z);
  }
  __device__ void know(const Seen& seen) {
    const A more = (seen.ones - 1) + seen.rest;
    m = seen.m, log_sum = log1p(more), inverse = 1 / (seen.ones + seen.rest), rest = more * inverse;
  }
  __device__ A target(A t) const { return keep * t + spread; }
  __device__ Class of(A z) const {
    const A d = z - m, p = exp_of<T>(d) * inverse;
    return {d - log_sum, p, d == 0 ? rest : 1 - p};
  }
  __device__ void add(Terms& terms, A t, A z) const {
    const Class of_z = of(z);
    terms.value += F::logits_value(target(t), of_z.l, of_z.q, alpha, gamma);
    if (!grad) return;
    const A h = F::logits_first(target(t), of_z.l, of_z.p, of_z.q, alpha, gamma);
    terms.far_first += F::far(of_z.q, h), terms.near_first += F::near(of_z.q, h);
    if (!hess) return;
    const A g = F::logits_second(target(t), of_z.l, of_z.p, of_z.q, alpha, gamma);
    terms.far_bend += F::far(of_z.q, g / of_z.q), terms.near_second += F::near(of_z.q, g), terms.near_q += F::near(of_z.q, of_z.q);
  }
  __device__ double conclude(const Terms& terms, A factor) {
    far = static_cast<A>(terms.far_first), near = static_cast<A>(terms.near_first),
    all = static_cast<A>(terms.far_first + terms.near_first);
    bend = static_cast<A>(terms.far_bend), near_second = static_cast<A>(terms.near_second), near_q = static_cast<A>(terms.near_q);
    k = factor;
    return terms.value;
  }
  __device__ A slope(A t, A z, long long) const {
    const Class of_z = of(z);
    return k * F::logits_slope(of_z.p, of_z.q, F::logits_first(target(t), of_z.l, of_z.p, of_z.q, alpha, gamma), far, near);
  }
  __device__ A curvature(A t, A z, long long) const {
    const Class of_z = of(z);
    const A own = F::logits_second(target(t), of_z.l, of_z.p, of_z.q, alpha, gamma);
    return k * F::logits_curvature(of_z.p, of_z.q, own, all, bend, near_second, near_q);
  }
};

// max(max_c (1 - t) p - Σ t p + 1, 0); of several largest the first has the slope.
template <class T> struct categorical_hinge {
  static constexpr bool kLabelled = false, kSees = true, kTerms = false;
  using A = Compute<T>;
  using Terms = Nothing;
  struct Seen {
    double right = 0;
    long long first = kNone;
    A top = -infinity<A>();
    __device__ void compete(A wrong, long long c) {
      if (wrong > top || (wrong == top && c < first)) top = wrong, first = c;
    }
    __device__ void merge(const Seen& o) {
      right += o.right;
      compete(o.top, o.first);
    }
  };
  double margin;
  long long first;
  A k;

  __device__ categorical_hinge(const Rows<T>&, int, A) {}
  __device__ static void see(Seen& seen, A t, A p, long long c) {
    seen.right += Formulas<A>::part(t, p);
    seen.compete(Formulas<A>::wrong(t, p), c);
  }
  __device__ void know(const Seen& seen) {
    margin = (static_cast<double>(seen.top) - seen.right) + 1;  // a NaN is in the sum, if not in the maximum
    first = seen.first;
  }
  __device__ double conclude(const Terms&, A factor) {
    k = margin > 0 ? factor : margin <= 0 ? A(0) : A(margin);  // 0, or NaN
    return margin <= 0 ? 0 : margin;
  }
  __device__ A slope(A t, A, long long c) const { return k == 0 ? A(0) : k * ((c == first ? 1 - t : A(0)) - t); }
  __device__ A curvature(A, A, long long) const { return 0; }
};

// Σ (p - t)², t one-hot.
template <class T> struct brier {
  static constexpr bool kLabelled = true, kSees = true, kTerms = false;
  using A = Compute<T>;
  using Terms = Nothing;
  struct Seen {
    double squares = 0;
    __device__ void merge(const Seen& o) { squares += o.squares; }
  };
  long long y;
  double value;
  A factor;

  __device__ brier(const Rows<T>&, int label, A) : y(label) {}
  __device__ A off(A p, long long c) const { return p - A(c == y); }
  __device__ void see(Seen& seen, A, A p, long long c) const { seen.squares += static_cast<double>(off(p, c)) * off(p, c); }
  __device__ void know(const Seen& seen) { value = seen.squares; }
  __device__ double conclude(const Terms&, A k) {
    factor = 2 * k;
    return value;
  }
  __device__ A slope(A, A p, long long c) const { return factor * off(p, c); }
  __device__ A curvature(A, A, long long) const { return factor; }
};

// (1 - y^q) / q of the label's prediction, which alone is looked at.
template <class T> struct generalized_crossentropy {
  static constexpr bool kLabelled = true, kSees = false, kTerms = false;
  using A = Compute<T>;
  using F = Formulas<A>;
  using Seen = Nothing;
  using Terms = Nothing;
  long long y;
  A own, q, k;

  __device__ generalized_crossentropy(const Rows<T>& job, int label, A p_y) : y(label), own(p_y), q(static_cast<A>(job.parameters[0])) {}
  __device__ void know(const Seen&) {}
  __device__ double conclude(const Terms&, A factor) {
    k = factor;
    return F::generalized_value(own, q);
  }
  __device__ A slope(A, A, long long c) const { return c == y ? k * F::generalized_slope(own, q) : A(0); }
  __device__ A curvature(A, A, long long c) const { return c == y ? k * F::generalized_curvature(own, q) : A(0); }
};

// max(0, margin + z_j - z_y)^power of the largest wrong class j, the first of several and NaN before all; or the sum over all wrong
// classes, divided by C before they are added, as their sum may be too large a number. The label's derivatives are made of theirs.
template <class T> struct multiclass_hinge {
  static constexpr bool kLabelled = true, kSees = true, kTerms = false;
  using A = Compute<T>;
  using F = Formulas<A>;
  using Terms = Nothing;
  struct Seen {
    ThreeSums of;  // all wrong classes
    long long first = kNone;
    A top = 0;
    __device__ void compete(A z, long long c) {
      const bool same = z == top || (z != z && top != top);
      if (c == kNone) return;
      if (first == kNone || z > top || (z != z && top == top) || (same && c < first)) top = z, first = c;
    }
    __device__ void merge(const Seen& o) {
      of.merge(o.of);
      compete(o.top, o.first);
    }
  };
  A own, margin, divisor, factor, label_slope, label_curvature;
  bool square, average;
  long long y, first;
  double value, slopes, curvatures;

  __device__ multiclass_hinge(const Rows<T>& job, int label, A p_y) : own(p_y), y(label) {
    margin = static_cast<A>(job.parameters[0]), square = job.parameters[1] == 2, average = job.parameters[2] != 0;
    divisor = static_cast<A>(average ? job.c : 1);
  }
  __device__ A violation(A z) const { return F::violation(z, own, margin); }
  // What is above 0 of the violation, divided: term by term where it is itself too large.
  __device__ A divided(A z) const {
    const A m = violation(z);
    return F::violation_value(0, m - m == 0 || m != m ? m / divisor : (margin / divisor + z / divisor) - own / divisor);
  }
  __device__ A first_of(A z) const { return square ? 2 * divided(z) : F::violation_first(0, violation(z)) / divisor; }
  __device__ A second_of(A z) const { return F::violation_second(square, violation(z)) / divisor; }
  __device__ void take(ThreeSums& sums, A z) const {
    const A u = divided(z);
    sums.value += square ? u * (u * divisor) : u;
    sums.first += first_of(z), sums.second += second_of(z);
  }
  __device__ void see(Seen& seen, A, A z, long long c) const {
    if (c == y) return;
    if (average)
      take(seen.of, z);
    else
      seen.compete(z, c);
  }
  __device__ void know(const Seen& seen) {
    ThreeSums sums = seen.of;
    first = seen.first;
    if (!average && first != kNone) take(sums, seen.top);
    if (!average && own != own) first = kNone;  // every slope is NaN
    value = own == own ? sums.value : nan_of<A>(), slopes = sums.first, curvatures = sums.second;
  }
  __device__ double conclude(const Terms&, A k) {
    factor = k, label_slope = static_cast<A>(0 - k * slopes), label_curvature = static_cast<A>(k * curvatures);
    return value;
  }
  __device__ bool counts(long long c) const { return average || c == first || own != own; }
  __device__ A slope(A, A z, long long c) const { return c == y ? label_slope : counts(c) ? factor * first_of(z) : A(0); }
  __device__ A curvature(A, A z, long long c) const { return c == y ? label_curvature : counts(c) ? factor * second_of(z) : A(0); }
};

// -Σ t p / sqrt((Σ t² + epsilon) (Σ p² + epsilon)), epsilon 0 if not floored; 0 where a factor is. Vectors whose squares could overflow or,
// if not floored, underflow are scaled by a power of two.
template <class T, bool FLOORED> struct Cosine {
  static constexpr bool kLabelled = false, kSees = true, kTerms = true;
  using A = Compute<T>;
  using F = Formulas<A>;
  struct Seen {
    A t = 0, p = 0;  // largest sizes
    __device__ void merge(const Seen& o) { t = larger(t, o.t), p = larger(p, o.p); }
  };
  struct Terms {
    double tt = 0, pp = 0, tp = 0;
    __device__ void merge(const Terms& o) { tt += o.tt, pp += o.pp, tp += o.tp; }
  };
  double epsilon;
  int t_exponent, p_exponent;
  bool zero;
  A ratio, cosine, by_t, by_p, grad_factor, hess_factor, inverse;

  __device__ Cosine(const Rows<T>& job, int, A) : epsilon(FLOORED ? job.parameters[0] : 0) {}
  __device__ static void see(Seen& seen, A t, A p, long long) { seen.merge({fabs(t), fabs(p)}); }
  __device__ static int exponent(double size) {
    const double limit = sizeof(A) == 4 ? 0x1p40 : 0x1p400;
    int e = 0;
    if (size != 0 && size <= 0x1.fffffffffffffp1023 && !(size < limit && (FLOORED || size > 1 / limit))) frexp(size, &e);
    return e;
  }
  __device__ void know(const Seen& seen) { t_exponent = exponent(seen.t), p_exponent = exponent(seen.p); }
  __device__ static A rescaled(A x, int e) { return e ? static_cast<A>(ldexp(static_cast<double>(x), -e)) : x; }
  __device__ void add(Terms& terms, A t, A p) const {
    const double x = rescaled(t, t_exponent), y = rescaled(p, p_exponent);
    terms.merge({x * x, y * y, x * y});
  }
  __device__ double conclude(const Terms& terms, A k) {
    const double tt = terms.tt + ldexp(epsilon, -2 * t_exponent), pp = terms.pp + ldexp(epsilon, -2 * p_exponent);
    const double t_norm = sqrt(tt), p_norm = sqrt(pp);
    zero = (tt == 0 || pp == 0) && terms.tp == terms.tp;  // beside a vector with NaN or an infinity 0 is none
    ratio = static_cast<A>(terms.tp / pp), cosine = static_cast<A>(terms.tp / t_norm / p_norm);
    by_t = static_cast<A>(1 / t_norm), by_p = static_cast<A>(1 / p_norm);
    inverse = static_cast<A>(ldexp(1 / p_norm, -p_exponent));
    grad_factor = static_cast<A>(ldexp(k / p_norm, -p_exponent)), hess_factor = k * inverse;
    return zero ? 0 : -terms.tp / t_norm / p_norm;
  }
  __device__ A slope(A t, A p, long long) const {
    return zero ? A(0) : F::cosine_slope(rescaled(t, t_exponent), rescaled(p, p_exponent), ratio, by_t, grad_factor);
  }
  __device__ A curvature(A t, A p, long long) const {
    if (zero) return 0;
    const A of_unit = F::cosine_curvature(rescaled(t, t_exponent) * by_t, rescaled(p, p_exponent) * by_p, cosine);
    return F::per_sum(F::per_sum(of_unit, inverse), hess_factor);
  }
};
template <class T> struct cosine_similarity : Cosine<T, false> {
  using Cosine<T, false>::Cosine;
};
template <class T> struct floored_cosine_similarity : Cosine<T, true> {
  using Cosine<T, true>::Cosine;
};

// ---- positions --------------------------------------------------------------------------------------------------------------------------

// The classes of a position, by the threads of a group: look(at, c, t, p) for neighbours from class c on, at offset `at`.
template <class T, bool TARGETS, int N, class F>
__device__ __forceinline__ void look_at(const Rows<T>& job, long long at, long long c, F& look) {
  Compute<T> t[N] = {}, p[N];
  read(job.z + at, p);
  if constexpr (TARGETS) read(static_cast<const Compute<T>*>(job.y) + at, t);
  look(at, c, t, p);
}
template <class T, bool TARGETS, class Group, class F>
__device__ __forceinline__ void visit(const Rows<T>& job, long long i, const Group& group, F look) {
  constexpr int V = kPack<T>;
  if constexpr (Group::kColumn) {
    long long at = i / job.s * job.c * job.s + i % job.s;
#pragma unroll 4
    for (long long c = 0; c < job.c; c++, at += job.s) look_at<T, TARGETS, 1>(job, at, c, look);
  } else {
    const long long at = i * job.c;
    const Stretch<long long> row(job.z + at, job.c);
    for (long long e = group.rank; e < row.singles; e += group.size) look_at<T, TARGETS, 1>(job, at + row.single(e), row.single(e), look);
#pragma unroll 2
    for (long long k = group.rank; k < row.packs; k += group.size)
      look_at<T, TARGETS, V>(job, at + row.head + k * V, row.head + k * V, look);
  }
}

template <class T, template <class> class Loss, class Group> __device__ void positions(const Rows<T>& job, const Group group) {
  using A = Compute<T>;
  constexpr bool TARGETS = !Loss<T>::kLabelled;
  const long long all = job.n * job.s;
  Sums sums;
  int turn = 0;
  for (long long first = group.first_row(); first < all; first += group.rows_at_once()) {
    const long long i = first + group.index;
    const bool inside = i < all;
    const Position<T> position(job, i / job.s, i % job.s, inside);
    A p_y = 0;
    if (Loss<T>::kLabelled && position.live) p_y = load(job.z[(i / job.s * job.c + position.y) * job.s + i % job.s]);
    Loss<T> loss(job, position.y, p_y);

    typename Loss<T>::Seen seen;
    if constexpr (Loss<T>::kSees) {
      if (position.live)
        visit<T, TARGETS>(job, i, group, [&](long long, long long c, const auto& t, const auto& p) {
          constexpr int N = sizeof(p) / sizeof(A);
#pragma unroll
          for (int j = 0; j < N; j++) loss.see(seen, t[j], p[j], c + j);
        });
      seen = group.merge(seen, turn);
      turn ^= 1;
    }
    loss.know(seen);

    typename Loss<T>::Terms terms;
    if constexpr (Loss<T>::kTerms) {
      if (position.live)
        visit<T, TARGETS>(job, i, group, [&](long long, long long, const auto& t, const auto& p) {
          constexpr int N = sizeof(p) / sizeof(A);
#pragma unroll
          for (int j = 0; j < N; j++) loss.add(terms, t[j], p[j]);
        });
      terms = group.merge(terms, turn);
      turn ^= 1;
    }
    const Factor<A> k = factor_of(factor_of(job), divides_by_0(job), position.weight);
    const double value = loss.conclude(terms, k.first);
    if (inside && group.leads()) position.report(job, value, 1, i, sums);
    if (!inside || !(job.grad || job.hess)) continue;

    if (position.live && k.first != 0) {
      visit<T, TARGETS>(job, i, group, [&](long long at, long long c, const auto& t, const auto& p) {
        constexpr int N = sizeof(p) / sizeof(A);
        A out[N];
        if (job.grad) {
#pragma unroll
          for (int j = 0; j < N; j++) out[j] = loss.slope(t[j], p[j], c + j) * k.rest;
          write(job.grad + at, out);
        }
        if (job.hess) {
#pragma unroll
          for (int j = 0; j < N; j++) out[j] = loss.curvature(t[j], p[j], c + j) * k.rest;
          write(job.hess + at, out);
        }
      });
    } else {
      const long long at = i / job.s * job.c * job.s + i % job.s;
      for (long long c = group.rank; c < job.c; c += group.size) {
        if (job.grad) store(job.grad[at + c * job.s], position.fill);
        if (job.hess) store(job.hess[at + c * job.s], position.fill);
      }
    }
  }
  hand_in(job, sums);
}

struct Column : Lanes {  // a thread, whose neighbours have the positions beside its own
  static constexpr bool kColumn = true;
  __device__ Column() : Lanes(1) {}
};
template <class T, template <class> class Loss> __global__ void __launch_bounds__(kThreads, 1) rows_lanes(const Rows<T> job) {
  positions<T, Loss>(job, Lanes(job.lanes));
}
template <class T, template <class> class Loss> __global__ void __launch_bounds__(kThreads, 1) rows_block(const Rows<T> job) {
  positions<T, Loss>(job, Block());
}
template <class T, template <class> class Loss> __global__ void __launch_bounds__(kThreads, 1) columns(const Rows<T> job) {
  positions<T, Loss>(job, Column());
}
