// Fused softmax cross-entropy on a GPU: losses, their sum, gradient, probabilities and Hessian diagonal in one visit to the logits. What is
// known of a position's classes is a running State (softmax_state.cuh).
//
// rows_*    classes are contiguous: some lanes of a warp, a block, or a cluster of blocks take a row, keep its bytes in shared memory while
//           they read them, and write the gradient from there: each logit is read once from device memory and each gradient written
//           once. What does not fit is read again.
// rows_part, rows_rest   few long rows, which would leave multiprocessors idle: blocks take parts of a row and leave their
//                        States in memory;
//           a second launch merges them, reads its part again, mostly from the second-level cache, and writes.
// spatial   positions are contiguous: a thread takes as many positions as 16 bytes hold and walks over their classes, or shares these with
//           the threads of the same threadIdx.x. Its logits are kept likewise.
//
// WEIGHTED kernels take soft targets, class weights, smoothing, Hessian, a term of lse² and capped logits; the others, labels alone, do
// less per element. Both take ignored labels, sample weights and Poly-1's term (Leng et al., ICLR 2022).
#include "gpu/launch.cuh"
#include "gpu/softmax_state.cuh"
#include "formulas/softmax.h"

// Packs on their way per thread: with 64 bytes each, 512 threads of a multiprocessor have 32 KB in flight.
template <class T> constexpr int kBatch = sizeof(T) == 8 ? 2 : 4;
template <class T> constexpr int kThreads = sizeof(T) == 8 ? 256 : 512;  // of a block; more registers for each where A is double
template <class T> constexpr int kUnroll = sizeof(T) == 2 ? 1 : 2;       // packs that are written at once
// Blocks that a multiprocessor's registers hold, at least: of kThreads, and of the 128 threads of rows_warp. More registers than 64 to 80
// for a thread gain nothing, fewer would spill.
template <class T, bool WEIGHTED> constexpr int kBlocks = WEIGHTED || sizeof(T) == 2 ? 1 : 2;
template <class T, bool WEIGHTED> constexpr int kSmallBlocks = WEIGHTED ? 1 : sizeof(T) == 8 ? 4 : 6;

template <class T> struct Job : Launch<T> {
  T* prob;                 // (n, c, s), or null
  void* states;            // (blocks,) State of the parts of rows, between rows_part and rows_rest
  double smoothing, poly;  // label smoothing; Poly-1's coefficient
  double z_loss, cap;      // coefficient of lse²; logits become cap tanh(z / cap), or 0: they stay as they are
};

// A logit as the formulas take it, and the first and second derivative of that; 1 - tanh² would cancel where it is small.
template <bool WEIGHTED, class T> __device__ Compute<T> capped(const Job<T>& job, Compute<T> z) {
  if constexpr (WEIGHTED) {
    if (job.cap != 0) return static_cast<Compute<T>>(job.cap) * tanh(z / static_cast<Compute<T>>(job.cap));
  }
  return z;
}
template <class T> struct Bend {
  Compute<T> first = 1, second = 0;
  __device__ Bend(const Job<T>& job, Compute<T> z) {
    if (job.cap == 0) return;
    const Compute<T> cap = static_cast<Compute<T>>(job.cap), e = exp(-(z < 0 ? -z : z) / cap), f = e / (1 + e * e);
    first = 4 * f * f;
    second = -2 * tanh(z / cap) / cap * first;
  }
};

// ---- one position, when its sum is known ------------------------------------------------------------------------------------------------

template <class T, bool WEIGHTED> struct Softmax : Position<T> {
  using A = Compute<T>;
  A m, inverse;        // p = exp(z - m) * inverse
  A others;            // 1 - p of a class at the maximum
  A front;             // multiplies the derivatives
  A scaled, at_label;  // plain: the gradient is exp(z - m) * scaled, and at_label at the label
  A u, poly;           // weighted: Σ u, Poly-1's coefficient
  A met, at_near;      // weighted: Σ t p where p is at most 1/2, and where it is more
  A twice_z, pull;     // 2 z_loss; that times lse, which multiplies p: apart from u, of which it may be a small part or that overflows

  __device__ Softmax() {}
  __device__ Softmax(const Job<T>& job, long long n, long long s, bool inside) : Position<T>(job, n, s, inside) {}
  // Takes the sum over the classes and the label's logit, fills in the rest and reports the loss; `leader`: one thread of those that share
  // the position. `i`: its place in (n, s).
  __device__ void conclude(const Job<T>& job, const State<T, WEIGHTED>& state, A z_y, double factor, long long i, bool leader, Sums& sums) {
    const A more = (state.ones - 1) + state.rest;
    m = state.m;
    inverse = 1 / (state.ones + state.rest);
    others = more * inverse;
    poly = static_cast<A>(job.poly);
    front = static_cast<A>(factor * this->weight);  // 0 where it is below all numbers, which leaves NaN, and makes NaN of an infinite slope
    if constexpr (WEIGHTED) {
      // A label of class weight 0 is skipped, unless the loss is more than its label's.
      if (state.kt == 0 && job.label_kind && job.smoothing == 0 && job.z_loss == 0) this->live = false;
      const A above = log1p(more), lse = m + above;
      twice_z = static_cast<A>(2 * job.z_loss);
      u = state.u;
      at_near = others < A(0.5) ? state.at_m * inverse : A(0);
      met = others < A(0.5) ? state.met * inverse : (state.met + state.at_m) * inverse;
      A loss = u * above + state.below;
      const A rest = poly * (1 - (met + at_near));
      if (!isinf(loss) || !isinf(rest)) loss += rest;  // that of an impossible class is far above it
      pull = twice_z * lse;
      if (twice_z != 0) loss += twice_z / 2 * lse * lse;
      if (leader) this->report(job, loss, state.kt, i, sums);
    } else {
      const A p = prob(z_y), missing = prob_minus_1(z_y, p);
      front *= 1 + poly * p;
      scaled = front * inverse;
      at_label = front * missing;
      if (leader) this->report(job, log1p(more) + (m - z_y) - poly * missing, 1, i, sums);
    }
    this->live = this->live && !divides_by_0(job);  // of derivatives divided by 0 nothing is left, NaN included
  }

  __device__ A power(A z) const { return exp_of<T>(z - m); }
  __device__ A prob(A z) const { return power(z) * inverse; }
  __device__ A prob_minus_1(A z, A p) const { return z == m ? -others : p - 1; }
  __device__ A by_others(A p, A not_p, A t) const { return not_p < A(0.5) ? met : (met - t * p) + at_near; }
  __device__ A pulled(A p, A x) const { return twice_z == 0 || p == 0 ? x : x + p * pull; }
  __device__ A slope(A z, A p, A t, A u_c) const {
    const A slope = z == m && others < A(0.5) ? softmax_slope_top(others, u_c, u) : softmax_slope(p, u_c, u);
    const A not_p = -prob_minus_1(z, p);
    return pulled(p, slope) - poly * p * poly_excess(t, not_p, by_others(p, not_p, t));
  }
  __device__ A gradient(A z, A p, A t, A u_c, const Bend<T>& bend) const {
    return !this->live ? this->fill : front * (slope(z, p, t, u_c) * bend.first);
  }
  __device__ A curvature(A z, A p, A t, A u_c, const Bend<T>& bend) const {
    const A not_p = -prob_minus_1(z, p);
    const A rest = by_others(p, not_p, t);
    const A d = not_p < A(0.5) ? poly_curvature_near(p, not_p, t, rest, poly, u) : poly_curvature_far(p, not_p, t, rest, poly, u);
    const A curve = pulled(p * not_p, d) + twice_z * p * p;
    return !this->live ? this->fill
                       : front * (curve * bend.first * bend.first + (bend.second != 0 ? slope(z, p, t, u_c) * bend.second : 0));
  }
};

// Targets t, class weights k and weighted, smoothed targets u of N neighbours: of N classes in a row, or of one class at N positions.
template <class T, int N> struct Targets {
  using A = Compute<T>;
  A t[N], k[N], u[N];
  // The weight of class c. Beside a label that is not smoothed those of other classes count for nothing, infinite ones included.
  __device__ static A class_weight(const Job<T>& job, long long c, A t) {
    if (job.label_kind && job.smoothing == 0 && t == 0) return 0;
    return job.class_weight ? job.class_weight[c] : A(1);
  }
  __device__ void smooth(const Job<T>& job) {
    const A keep = static_cast<A>(1 - job.smoothing), spread = static_cast<A>(job.smoothing / job.c);
#pragma unroll
    for (int j = 0; j < N; j++) u[j] = k[j] * (keep * t[j] + spread);
  }
  __device__ void soft(const Job<T>& job, long long at) { read(static_cast<const A*>(job.y) + at, t); }
};
template <class T, int N> __device__ Targets<T, N> targets_of_row(const Job<T>& job, long long row, long long c, int y) {
  Targets<T, N> of;
  if (job.label_kind == 0) of.soft(job, row * job.c + c);
#pragma unroll
  for (int j = 0; j < N; j++) {
    if (job.label_kind) of.t[j] = c + j == y;
    of.k[j] = of.class_weight(job, c + j, of.t[j]);
  }
  of.smooth(job);
  return of;
}
template <class T, int N>
__device__ Targets<T, N> targets_of_class(const Job<T>& job, long long at, long long c, const Softmax<T, true> (&position)[N]) {
  Targets<T, N> of;
  if (job.label_kind == 0) of.soft(job, at);
#pragma unroll
  for (int j = 0; j < N; j++) {
    if (job.label_kind) of.t[j] = c == position[j].y;
    of.k[j] = of.class_weight(job, c, of.t[j]);
  }
  of.smooth(job);
  return of;
}

// ---- rows -------------------------------------------------------------------------------------------------------------------------------

#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
template <int N> struct Cluster {  // N blocks, each with a slice of the classes
  static constexpr bool kReads = true, kWrites = true;
  Block block;
  int size = block.size, rank = block.rank, index = 0;
  __device__ long long rows_at_once() const { return gridDim.x / N; }
  __device__ long long first_row() const { return blockIdx.x / N; }
  __device__ long long first_class(long long c) const { return c * cluster_rank<N>() / N; }
  __device__ long long end_class(long long c) const { return c * (cluster_rank<N>() + 1) / N; }
  __device__ bool leads() const { return rank == 0 && cluster_rank<N>() == 0; }
  template <class S> __device__ S merge(S state, int turn, long long) const {
    S* own = states<S>(turn) + size / kWarp;
    state = block.merge(state, turn);
    if (rank == 0) *own = state;
    cluster_sync<N>();
    return merge_lanes(load_remote(own, rank % N), N);
  }
  __device__ void leave() const { cluster_sync<N>(); }  // the others may still read this block's shared memory
};
#endif

template <bool FIRST> struct Part : Block {  // of a row, in the first launch of two, or in the second
  static constexpr bool kReads = FIRST, kWrites = !FIRST;
  int parts, part;
  void* states;
  template <class T> __device__ explicit Part(const Job<T>& job) : parts(job.lanes), part(blockIdx.x % job.lanes), states(job.states) {}
  __device__ long long rows_at_once() const { return gridDim.x / parts; }
  __device__ long long first_row() const { return blockIdx.x / parts; }
  __device__ long long first_class(long long c) const { return c * part / parts; }
  __device__ long long end_class(long long c) const { return c * (part + 1) / parts; }
  __device__ bool leads() const { return rank == 0 && part == 0; }
  template <class S> __device__ S merge(S state, int turn, long long row) const {
    S* const of_row = static_cast<S*>(states) + row * parts;
    if constexpr (!FIRST) return merge_lanes(rank % kWarp < parts ? of_row[rank % kWarp] : S(), kWarp);
    state = Block::merge(state, turn);
    if (rank == 0) of_row[part] = state;
    return state;
  }
};

// The derivatives of N neighbours in a row, from class c on. SIMPLE: only the gradient is wanted, of a live position, at an
// aligned address.
template <bool SIMPLE, class T, bool WEIGHTED, int N>
__device__ __forceinline__ void emit_row(const Job<T>& job, const Softmax<T, WEIGHTED>& position, long long row, int c,
                                         const Compute<T> (&z)[N]) {
  const long long at = row * job.c + c;
  Compute<T> e[N], out[N];
#pragma unroll
  for (int j = 0; j < N; j++) e[j] = position.power(capped<WEIGHTED>(job, z[j]));
  if (!SIMPLE && job.prob) {
#pragma unroll
    for (int j = 0; j < N; j++) out[j] = e[j] * position.inverse;
    write(job.prob + at, out);
  }
  if constexpr (WEIGHTED) {
    const auto of = targets_of_row<T, N>(job, row, c, position.y);
#pragma unroll
    for (int j = 0; j < N; j++)
      out[j] = position.gradient(capped<true>(job, z[j]), e[j] * position.inverse, of.t[j], of.u[j], Bend<T>(job, z[j]));
    if (job.grad) write(job.grad + at, out);
    if (!job.hess) return;
#pragma unroll
    for (int j = 0; j < N; j++)
      out[j] = position.curvature(capped<true>(job, z[j]), e[j] * position.inverse, of.t[j], of.u[j], Bend<T>(job, z[j]));
    write(job.hess + at, out);
  } else {
    if (!SIMPLE && !job.grad) return;
    const bool live = SIMPLE || position.live;
#pragma unroll
    for (int j = 0; j < N; j++) out[j] = e[j] * position.scaled;
    if (!live || static_cast<unsigned>(position.y - c) < N) {  // the rare ones, behind one comparison for N classes
#pragma unroll
      for (int j = 0; j < N; j++) out[j] = !live ? position.fill : c + j == position.y ? position.at_label : out[j];
    }
    if constexpr (SIMPLE)
      write_packs(job.grad + at, out);
    else
      write(job.grad + at, out);
  }
}

template <class T, bool WEIGHTED, class Group> __device__ void rows(const Job<T>& job, const Group group) {
  using A = Compute<T>;
  constexpr int V = kPack<T>, B = kBatch<T>;
  const Pack<T> none = filled_with<T, V>(-infinity<A>());  // counts neither in a maximum nor in a sum of exponentials
  Pack<T>* kept = reinterpret_cast<Pack<T>*>(shared_memory<unsigned char>() + kRoom) + group.index * job.kept;
  const double factor = factor_of(job);
  const int low = static_cast<int>(group.first_class(job.c)), length = static_cast<int>(group.end_class(job.c)) - low;
  Sums sums;
  int turn = 0;
  for (long long first = group.first_row(); first < job.n; first += group.rows_at_once(), turn ^= 1) {
    const long long row = first + group.index, offset = row * job.c + low;
    Softmax<T, WEIGHTED> position(job, row, 0, row < job.n);
    const bool looks = position.live || (job.prob && row < job.n);  // a skipped row's logits are not read
    const A z_y = position.live ? load(job.z[row * job.c + position.y]) : A(0);
    const Stretch<int> of_row(job.z + offset, length);
    const Pack<T>* const from = reinterpret_cast<const Pack<T>*>(job.z + offset + of_row.head);
    State<T, WEIGHTED> state;

    if (Group::kReads && looks) {
      for (int e = group.rank; e < of_row.singles; e += group.size) {
        const int c = of_row.single(e);
        const A z = capped<WEIGHTED>(job, load(job.z[offset + c]));
        state.raise(z);
        if constexpr (WEIGHTED) {
          const auto of = targets_of_row<T, 1>(job, row, low + c, position.y);
          state.add(z, of.t[0], of.k[0], of.u[0]);
        } else
          state.add(z);
      }
      for (int i = group.rank; i < of_row.packs; i += group.size * B) {
        Pack<T> pack[B];
#pragma unroll
        for (int b = 0; b < B; b++) {
          pack[b] = none;
          if (i + b * group.size < of_row.packs) pack[b] = from[i + b * group.size];
        }
        A z[B][V], top = -infinity<A>();
#pragma unroll
        for (int b = 0; b < B; b++) {
          if (i + b * group.size < job.kept) kept[i + b * group.size] = pack[b];
          unpack(pack[b], z[b]);
          if (WEIGHTED && i + b * group.size < of_row.packs) {  // a pack of none is to stay -inf
#pragma unroll
            for (int j = 0; j < V; j++) z[b][j] = capped<WEIGHTED>(job, z[b][j]);
          }
#pragma unroll
          for (int j = 0; j < V; j++) top = larger(top, z[b][j]);
        }
        state.raise(top);
#pragma unroll
        for (int b = 0; b < B; b++) {
          if constexpr (WEIGHTED) {
            if (i + b * group.size >= of_row.packs) continue;
            const auto of = targets_of_row<T, V>(job, row, low + of_row.head + (i + b * group.size) * V, position.y);
#pragma unroll
            for (int j = 0; j < V; j++) state.add(z[b][j], of.t[j], of.k[j], of.u[j]);
          } else {
#pragma unroll
            for (int j = 0; j < V; j++) state.add(z[b][j]);
          }
        }
      }
    }
    state = group.merge(state, turn, row);
    if (!Group::kWrites) continue;
    if (row < job.n) position.conclude(job, state, z_y, factor, row, group.leads(), sums);
    if (row >= job.n || !(job.grad || job.prob || job.hess)) continue;

    for (int e = group.rank; e < of_row.singles; e += group.size) {
      const int c = of_row.single(e);
      const A z[1] = {looks ? load(job.z[offset + c]) : A(0)};
      emit_row<false>(job, position, row, low + c, z);
    }
    if constexpr (!WEIGHTED) {
      if (position.live && job.grad && !job.prob && of_row.packs <= job.kept && aligned<16>(job.grad + offset + of_row.head)) {
#pragma unroll(kUnroll<T>)
        for (int i = group.rank; i < of_row.packs; i += group.size) {
          A z[V];
          unpack(kept[i], z);
          emit_row<true>(job, position, row, low + of_row.head + i * V, z);
        }
        continue;
      }
    }
#pragma unroll(kUnroll<T>)
    for (int i = group.rank; i < of_row.packs; i += group.size) {
      Pack<T> pack = none;
      if (looks) pack = i < job.kept ? kept[i] : from[i];
      A z[V];
      unpack(pack, z);
      emit_row<false>(job, position, row, low + of_row.head + i * V, z);
    }
  }
  if (!Group::kWrites) return;
  hand_in(job, sums);
  group.leave();
}

template <class T, bool WEIGHTED> __global__ void __launch_bounds__(128, kSmallBlocks<T, WEIGHTED>) rows_warp(const Job<T> job) {
  rows<T, WEIGHTED>(job, Lanes(job.lanes));
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, kBlocks<T, WEIGHTED>) rows_block(const Job<T> job) {
  rows<T, WEIGHTED>(job, Block());
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, kBlocks<T, WEIGHTED>) rows_part(const Job<T> job) {
  rows<T, WEIGHTED>(job, Part<true>(job));
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, kBlocks<T, WEIGHTED>) rows_rest(const Job<T> job) {
  rows<T, WEIGHTED>(job, Part<false>(job));
}
#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
template <class T, bool WEIGHTED, int N>
__global__ void __launch_bounds__(kThreads<T>, kBlocks<T, WEIGHTED>) __cluster_dims__(N, 1, 1) rows_cluster(const Job<T> job) {
  rows<T, WEIGHTED>(job, Cluster<N>());
}
#endif

// ---- spatial ----------------------------------------------------------------------------------------------------------------------------

// V positions per thread: as many as 16 bytes hold, or 1 where S or an address is not a multiple of them. blockDim.y threads share the
// classes of a position; they meet in shared memory.
template <class T, bool WEIGHTED, int V> __global__ void __launch_bounds__(256, WEIGHTED ? 1 : 2) spatial(const Job<T> job) {
  using A = Compute<T>;
  using S = State<T, WEIGHTED>;
  constexpr int B = sizeof(T) < 8 && V * sizeof(T) <= 8 ? 8 : kBatch<T>;
  const Pack<T, V> none = filled_with<T, V>(-infinity<A>());  // counts neither in a maximum nor in a sum of exponentials
  const int wide = blockDim.x, deep = blockDim.y, thread = threadIdx.x + wide * threadIdx.y, threads = wide * deep;
  S* const room = reinterpret_cast<S*>(shared_memory<unsigned char>() + kRoom);  // [V][deep][wide]
  Pack<T, V>* const kept =
      reinterpret_cast<Pack<T, V>*>(shared_memory<unsigned char>() + kRoom + (deep > 1 ? (threads * V * sizeof(S) + 15) / 16 * 16 : 0)) +
      thread;
  const double factor = factor_of(job);
  const int classes = static_cast<int>(job.c);
  const long long vectors = job.n * (job.s / V);
  Sums sums;
  for (long long first = static_cast<long long>(blockIdx.x) * wide; first < vectors; first += static_cast<long long>(gridDim.x) * wide) {
    const bool inside = first + threadIdx.x < vectors;
    const long long vector = inside ? first + threadIdx.x : 0, n = vector / (job.s / V), s = vector % (job.s / V) * V;
    const long long offset = n * job.c * job.s + s;
    Softmax<T, WEIGHTED> position[V];
    bool looks = job.prob && inside, all_live = true;
#pragma unroll
    for (int v = 0; v < V; v++) {
      position[v] = Softmax<T, WEIGHTED>(job, n, s + v, inside);
      looks |= position[v].live;
    }

    S state[V];
    if (looks) {
      for (int c = threadIdx.y, k = 0; c < classes; c += deep * B, k += B) {
        Pack<T, V> pack[B];
#pragma unroll
        for (int b = 0; b < B; b++) {
          pack[b] = none;
          if (c + b * deep < classes) pack[b] = *reinterpret_cast<const Pack<T, V>*>(job.z + offset + (c + b * deep) * job.s);
        }
        A z[B][V];
#pragma unroll
        for (int b = 0; b < B; b++) {
          unpack(pack[b], z[b]);
          if (WEIGHTED && c + b * deep < classes) {  // a pack of none is to stay -inf
#pragma unroll
            for (int v = 0; v < V; v++) z[b][v] = capped<WEIGHTED>(job, z[b][v]);
          }
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
          A top = -infinity<A>();
#pragma unroll
          for (int b = 0; b < B; b++) top = larger(top, z[b][v]);
          state[v].raise(top);
        }
#pragma unroll
        for (int b = 0; b < B; b++) {
          if (k + b < job.kept) kept[(k + b) * threads] = pack[b];
          if constexpr (WEIGHTED) {
            if (c + b * deep >= classes) continue;
            const auto of = targets_of_class<T, V>(job, offset + (c + b * deep) * job.s, c + b * deep, position);
#pragma unroll
            for (int v = 0; v < V; v++) state[v].add(z[b][v], of.t[v], of.k[v], of.u[v]);
          } else {
#pragma unroll
            for (int v = 0; v < V; v++) state[v].add(z[b][v]);
          }
        }
      }
    }
    if (deep > 1) {  // as in merge_lanes: first agree on the largest logit, then add sums
#pragma unroll
      for (int v = 0; v < V; v++) room[v * threads + thread].m = state[v].m;
      __syncthreads();
#pragma unroll
      for (int v = 0; v < V; v++) {
        A top = state[v].m;
        for (int d = 0; d < deep; d++) top = larger(top, room[v * threads + d * wide + threadIdx.x].m);
        state[v].raise(top);
        static_cast<typename S::Sums&>(room[v * threads + thread]) = state[v];
      }
      __syncthreads();
#pragma unroll
      for (int v = 0; v < V; v++) {
        typename S::Sums sums_of_classes;
        for (int d = 0; d < deep; d++) sums_of_classes.join(room[v * threads + d * wide + threadIdx.x]);
        static_cast<typename S::Sums&>(state[v]) = sums_of_classes;
      }
    }
    if (!inside) continue;
#pragma unroll
    for (int v = 0; v < V; v++) {
      const A z_y = position[v].live ? load(job.z[offset + v + position[v].y * job.s]) : A(0);
      position[v].conclude(job, state[v], z_y, factor, n * job.s + s + v, threadIdx.y == 0, sums);
      all_live &= position[v].live;
    }
    if (!(job.grad || job.prob || job.hess)) continue;

    if constexpr (!WEIGHTED && V > 1) {  // only the gradient is wanted, all is live, kept and aligned
      if (all_live && job.grad && !job.prob && (classes + deep - 1) / deep <= job.kept && aligned<V * sizeof(T)>(job.grad + offset)) {
        T* to = job.grad + offset + threadIdx.y * job.s;
        const Pack<T, V>* from = kept;
#pragma unroll 2
        for (int c = threadIdx.y; c < classes; c += deep, to += deep * job.s, from += threads) {
          A z[V], g[V];
          unpack(*from, z);
#pragma unroll
          for (int v = 0; v < V; v++) g[v] = here(position[v].power(z[v]) * position[v].scaled);
#pragma unroll
          for (int v = 0; v < V; v++) g[v] = c == position[v].y ? position[v].at_label : g[v];
          write_packs(to, g);
        }
        continue;
      }
    }
#pragma unroll(kUnroll<T>)
    for (int c = threadIdx.y, k = 0; c < classes; c += deep, k++) {
      const long long at = offset + c * job.s;
      Pack<T, V> pack = none;
      if (looks) pack = k < job.kept ? kept[k * threads] : *reinterpret_cast<const Pack<T, V>*>(job.z + at);
      A z[V], e[V], out[V];
      unpack(pack, z);
#pragma unroll
      for (int v = 0; v < V; v++) e[v] = position[v].power(capped<WEIGHTED>(job, z[v]));
      if (job.prob) {
#pragma unroll
        for (int v = 0; v < V; v++) out[v] = e[v] * position[v].inverse;
        write(job.prob + at, out);
      }
      if constexpr (WEIGHTED) {
        const auto of = targets_of_class<T, V>(job, at, c, position);
#pragma unroll
        for (int v = 0; v < V; v++)
          out[v] = position[v].gradient(capped<true>(job, z[v]), e[v] * position[v].inverse, of.t[v], of.u[v], Bend<T>(job, z[v]));
        if (job.grad) write(job.grad + at, out);
        if (!job.hess) continue;
#pragma unroll
        for (int v = 0; v < V; v++)
          out[v] = position[v].curvature(capped<true>(job, z[v]), e[v] * position[v].inverse, of.t[v], of.u[v], Bend<T>(job, z[v]));
        write(job.hess + at, out);
      } else if (job.grad) {
#pragma unroll
        for (int v = 0; v < V; v++) out[v] = c == position[v].y ? position[v].at_label : e[v] * position[v].scaled;
        if (!all_live) {
#pragma unroll
          for (int v = 0; v < V; v++) out[v] = position[v].live ? out[v] : position[v].fill;
        }
        write(job.grad + at, out);
      }
    }
  }
  hand_in(job, sums);
}
