// Fused softmax cross-entropy on a GPU: losses, their sum, gradient, probabilities and Hessian diagonal in one visit to the logits. What is
// known of a position's classes is a running State (softmax_state.cuh).
//
// rows_*    classes are contiguous: some lanes of a warp, a block, or a cluster of blocks take a row, keep its bytes in shared memory while
//           they read them, and write the gradient from there: each logit is read once from device memory and each gradient written
//           once. What does not fit is read again.
// rows_part, rows_rest   few long rows, which would leave multiprocessors idle: blocks take parts of a row and leave their States in memory;
//           a second launch merges them, reads its part again, mostly from the second-level cache, and writes.
// spatial   positions are contiguous: a thread takes as many positions as 16 bytes hold and walks over their classes, or shares these with
//           the threads of the same threadIdx.x. Its logits are kept likewise.
// label_sums, finish   what the labels alone decide; the sums of all blocks, in a fixed order. No atomics: the same bits on every run.
//
// WEIGHTED kernels take soft targets, class weights, smoothing and Hessian; the others, labels alone, do less per element. Both take
// ignored labels, sample weights and Poly-1's term (Leng et al., ICLR 2022).
#include "device.cuh"
#include "softmax_state.cuh"
#include "softmax_steps.h"

// Packs on their way per thread: with 64 bytes each, 512 threads of a multiprocessor have 32 KB in flight.
template <class T> constexpr int kBatch = sizeof(T) == 8 ? 2 : 4;
template <class T> constexpr int kThreads = sizeof(T) == 8 ? 256 : 512;  // of a block; more registers for each where A is double

// One launch; cuda.py fills it by a dtype of the same fields.
template <class T> struct Job {
  using A = Compute<T>;
  const T* z;             // (n, c, s)
  const void* y;          // (n, s) labels, or (n, c, s) soft targets of type A
  const A* class_weight;  // (c,), or null: 1
  const A* weight;        // (n, s) by its strides, or null: 1
  const double* factor;   // (), or null: multiplies the derivatives, as scale does
  const A* lse;           // (n, s) of an earlier launch, which spares the first pass, or null; not for weighted kernels
  A* losses;              // (n, s), or null
  A* lse_out;             // (n, s), or null
  T* grad;                // (n, c, s), or null
  T* prob;                // (n, c, s), or null
  T* hess;                // (n, c, s), or null
  Sums* partials;         // (blocks,)
  void* states;           // (blocks,) State of the parts of rows, between rows_part and rows_rest
  long long n, c, s;
  long long weight_n, weight_s;  // strides, in elements
  long long ignore[kIgnores];
  double scale, smoothing, poly;
  int ignores;
  int label_kind;  // as class_of() knows them; 0: soft targets
  int lanes;       // rows_warp: lanes for each row; rows_part, rows_rest: blocks for each row, at most 32
  int kept;        // packs in shared memory: of a row, or of a thread of `spatial`
};

// ---- one position, when its sum is known ------------------------------------------------------------------------------------------------

template <class T, bool WEIGHTED> struct Position {
  using A = Compute<T>;
  A weight;           // of the sample
  A fill;             // what a position gets that is skipped (0) or has a bad label (NaN)
  int y;              // its class, kIgnored or kBad; 0 for soft targets
  bool live;          // neither skipped nor bad
  A m, inverse;       // p = exp(z - m) * inverse
  A others;           // 1 - p of a class at the maximum
  A front, at_label;  // plain: the gradient is front * p, and at_label at the label
  A u, met, poly;     // weighted: Σ u, Σ t p, Poly-1's coefficient

  __device__ void begin(const Job<T>& job, long long n, long long s, bool inside) {
    const long long c = !inside ? kIgnored : job.label_kind ? class_of(job, n * job.s + s) : 0;
    weight = inside ? weight_of(job, n, s) : A(0);
    fill = c == kBad ? nan_of<A>() : A(0);
    y = static_cast<int>(c);
    live = c >= 0 && weight != 0;
  }
  // Takes the sum over the classes and the label's logit, fills in the rest and reports the loss; `leader`: one thread of those that share
  // the position. `i`: its place in (n, s).
  __device__ void conclude(const Job<T>& job, const State<T, WEIGHTED>& state, A z_y, A factor, long long i, bool leader, Sums& sums) {
    const A more = (state.ones - 1) + state.rest;
    m = job.lse ? job.lse[i] : state.m;
    inverse = job.lse ? A(1) : 1 / (state.ones + state.rest);
    others = job.lse ? A(0) : more * inverse;
    poly = static_cast<A>(job.poly);
    front = weight * factor;
    A loss, kt = 1;
    if constexpr (WEIGHTED) {
      u = state.u;
      met = state.met * inverse;
      kt = state.kt;
      loss = u * log1p(more) + state.below + poly * (1 - met);
    } else {
      const A p = prob(z_y), missing = prob_minus_1(z_y, p);
      front *= 1 + poly * p;
      at_label = front * missing;
      loss = (job.lse ? A(0) : log1p(more)) + (m - z_y) - poly * missing;
    }
    loss = live ? weight * loss : fill;
    const bool counted = live;
    live = live && weight * factor != 0;  // of derivatives that are divided by 0 or underflow nothing is left, NaN included
    if (!leader) return;
    if (job.losses) job.losses[i] = loss;
    if (job.lse_out) job.lse_out[i] = counted ? m + log1p(more) : A(0);
    sums.total += loss;
    sums.weight += counted ? static_cast<double>(weight) * kt : 0.0;
    sums.count += y >= 0;
    if (y == kBad && i < sums.bad) sums.bad = i;
  }

  __device__ A prob(A z) const { return exp_of<T>(z - m) * inverse; }
  __device__ A prob_minus_1(A z, A p) const { return z == m ? -others : p - 1; }
  __device__ A gradient(long long c, A p) const { return !live ? fill : c == y ? at_label : front * p; }
  __device__ A gradient(A z, A p, A t, A u_c) const {
    const A slope = z == m ? softmax_slope_top(others, u_c, u) : softmax_slope(p, u_c, u);
    return !live ? fill : front * (slope + poly * poly_slope(p, t - met));
  }
  __device__ A curvature(A z, A p, A t) const {
    const A not_p = -prob_minus_1(z, p);
    return !live ? fill : front * (softmax_curvature(p, not_p, u) + poly * poly_curvature(p, not_p, t - met));
  }
};

// Targets t, class weights k and weighted, smoothed targets u of N neighbours: of N classes in a row, or of one class at N positions.
template <class T, int N> struct Targets {
  using A = Compute<T>;
  A t[N], k[N], u[N];
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
    of.k[j] = job.class_weight ? job.class_weight[c + j] : Compute<T>(1);
  }
  of.smooth(job);
  return of;
}
template <class T, int N>
__device__ Targets<T, N> targets_of_class(const Job<T>& job, long long at, long long c, const Position<T, true> (&position)[N]) {
  Targets<T, N> of;
  if (job.label_kind == 0) of.soft(job, at);
#pragma unroll
  for (int j = 0; j < N; j++) {
    if (job.label_kind) of.t[j] = c == position[j].y;
    of.k[j] = job.class_weight ? job.class_weight[c] : Compute<T>(1);
  }
  of.smooth(job);
  return of;
}
template <class T> __device__ Compute<T> factor_of(const Job<T>& job) {
  return static_cast<Compute<T>>(job.factor ? job.scale * *job.factor : job.scale);
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
    return merge_lanes(rank % kWarp < N ? load_remote(own, rank % kWarp) : S(), kWarp);
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

template <class A, int N> struct Values {
  A at[N];
};
template <class T, bool WEIGHTED, int N>  // the derivatives of N neighbours in a row
__device__ __forceinline__ void emit_row(const Job<T>& job, const Position<T, WEIGHTED>& position, long long row, long long c,
                                         const Values<Compute<T>, N>& z) {
  Compute<T> g[N], p[N];
#pragma unroll
  for (int j = 0; j < N; j++) p[j] = position.prob(z.at[j]);
  if constexpr (WEIGHTED) {
    const auto of = targets_of_row<T, N>(job, row, c, position.y);
#pragma unroll
    for (int j = 0; j < N; j++) g[j] = position.gradient(z.at[j], p[j], of.t[j], of.u[j]);
    if (job.hess) {
      Compute<T> h[N];
#pragma unroll
      for (int j = 0; j < N; j++) h[j] = position.curvature(z.at[j], p[j], of.t[j]);
      write(job.hess + row * job.c + c, h);
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) g[j] = position.gradient(c + j, p[j]);
  }
  if (job.grad) write(job.grad + row * job.c + c, g);
  if (job.prob) write(job.prob + row * job.c + c, p);
}

template <class T, bool WEIGHTED, class Group> __device__ void rows(const Job<T>& job, const Group group) {
  using A = Compute<T>;
  constexpr int V = kPack<T>, B = kBatch<T>;
  Pack<T>* kept = reinterpret_cast<Pack<T>*>(shared_memory<unsigned char>() + kRoom) + group.index * job.kept;
  const A factor = factor_of(job);
  const long long low = group.first_class(job.c);
  const int length = static_cast<int>(group.end_class(job.c) - low);
  Sums sums;
  int turn = 0;
  for (long long first = group.first_row(); first < job.n; first += group.rows_at_once(), turn ^= 1) {
    const long long row = first + group.index, offset = row * job.c + low;
    Position<T, WEIGHTED> position;
    position.begin(job, row, 0, row < job.n);
    const bool looks = position.live || (job.prob && row < job.n);  // a skipped row's logits are not read
    const A z_y = position.live ? load(job.z[row * job.c + position.y]) : A(0);
    const Stretch<int> of_row(job.z + offset, length);
    const Pack<T>* const from = reinterpret_cast<const Pack<T>*>(job.z + offset + of_row.head);
    State<T, WEIGHTED> state;

    if (Group::kReads && looks && !job.lse) {
      for (int e = group.rank; e < of_row.singles; e += group.size) {
        const int c = of_row.single(e);
        const A z = load(job.z[offset + c]);
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
        for (int b = 0; b < B; b++)
          if (i + b * group.size < of_row.packs) pack[b] = from[i + b * group.size];
        A top = -infinity<A>();
#pragma unroll
        for (int b = 0; b < B; b++) {
          if (i + b * group.size >= of_row.packs) continue;
          if (i + b * group.size < job.kept) kept[i + b * group.size] = pack[b];
#pragma unroll
          for (int j = 0; j < V; j++) top = larger(top, load(pack[b].at[j]));
        }
        state.raise(top);
#pragma unroll
        for (int b = 0; b < B; b++) {
          if (i + b * group.size >= of_row.packs) continue;
          if constexpr (WEIGHTED) {
            const auto of = targets_of_row<T, V>(job, row, low + of_row.head + (i + b * group.size) * V, position.y);
#pragma unroll
            for (int j = 0; j < V; j++) state.add(load(pack[b].at[j]), of.t[j], of.k[j], of.u[j]);
          } else {
#pragma unroll
            for (int j = 0; j < V; j++) state.add(load(pack[b].at[j]));
          }
        }
      }
    }
    if (!job.lse) state = group.merge(state, turn, row);
    if (!Group::kWrites) continue;
    if (row < job.n) position.conclude(job, state, z_y, factor, row, group.leads(), sums);
    if (row >= job.n || !(job.grad || job.prob || job.hess)) continue;

    for (int e = group.rank; e < of_row.singles; e += group.size) {
      const int c = of_row.single(e);
      emit_row(job, position, row, low + c, Values<A, 1>{{looks ? load(job.z[offset + c]) : A(0)}});
    }
#pragma unroll 2
    for (int i = group.rank; i < of_row.packs; i += group.size) {
      Pack<T> pack = {};
      if (looks) pack = i < job.kept && !job.lse ? kept[i] : from[i];
      Values<A, V> z;
#pragma unroll
      for (int j = 0; j < V; j++) z.at[j] = load(pack.at[j]);
      emit_row(job, position, row, low + of_row.head + i * V, z);
    }
  }
  if (!Group::kWrites) return;
  sums = sum_of_block(sums, room_of_sums());
  if (threadIdx.x == 0) job.partials[blockIdx.x] = sums;
  group.leave();
}

template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, 1) rows_warp(const Job<T> job) {
  rows<T, WEIGHTED>(job, Lanes(job.lanes));
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, 1) rows_block(const Job<T> job) {
  rows<T, WEIGHTED>(job, Block());
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, 1) rows_part(const Job<T> job) {
  rows<T, WEIGHTED>(job, Part<true>(job));
}
template <class T, bool WEIGHTED> __global__ void __launch_bounds__(kThreads<T>, 1) rows_rest(const Job<T> job) {
  rows<T, WEIGHTED>(job, Part<false>(job));
}
#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
template <class T, bool WEIGHTED, int N>
__global__ void __launch_bounds__(kThreads<T>, 1) __cluster_dims__(N, 1, 1) rows_cluster(const Job<T> job) {
  rows<T, WEIGHTED>(job, Cluster<N>());
}
#endif

// ---- spatial ----------------------------------------------------------------------------------------------------------------------------

// V positions per thread: as many as 16 bytes hold, or 1 where S or an address is not a multiple of them. blockDim.y threads share the
// classes of a position; they meet in shared memory.
template <class T, bool WEIGHTED, int V> __global__ void __launch_bounds__(256, 1) spatial(const Job<T> job) {
  using A = Compute<T>;
  using S = State<T, WEIGHTED>;
  constexpr int B = kBatch<T>;
  const int wide = blockDim.x, deep = blockDim.y, thread = threadIdx.x + wide * threadIdx.y, threads = wide * deep;
  S* const room = reinterpret_cast<S*>(shared_memory<unsigned char>() + kRoom);  // [V][deep][wide]
  Pack<T, V>* const kept =
      reinterpret_cast<Pack<T, V>*>(shared_memory<unsigned char>() + kRoom + (deep > 1 ? (threads * V * sizeof(S) + 15) / 16 * 16 : 0)) +
      thread;
  const A factor = factor_of(job);
  const long long vectors = job.n * (job.s / V);
  Sums sums;
  for (long long first = static_cast<long long>(blockIdx.x) * wide; first < vectors; first += static_cast<long long>(gridDim.x) * wide) {
    const bool inside = first + threadIdx.x < vectors;
    const long long vector = inside ? first + threadIdx.x : 0, n = vector / (job.s / V), s = vector % (job.s / V) * V;
    const long long offset = n * job.c * job.s + s;
    Position<T, WEIGHTED> position[V];
    bool looks = job.prob && inside;
#pragma unroll
    for (int v = 0; v < V; v++) {
      position[v].begin(job, n, s + v, inside);
      looks |= position[v].live;
    }

    State<T, WEIGHTED> state[V];
    if (looks && !job.lse) {
      for (long long c = threadIdx.y, k = 0; c < job.c; c += deep * B, k += B) {
        Pack<T, V> pack[B];
#pragma unroll
        for (int b = 0; b < B; b++)
          if (c + b * deep < job.c) pack[b] = *reinterpret_cast<const Pack<T, V>*>(job.z + offset + (c + b * deep) * job.s);
#pragma unroll
        for (int v = 0; v < V; v++) {
          A top = -infinity<A>();
#pragma unroll
          for (int b = 0; b < B; b++)
            if (c + b * deep < job.c) top = larger(top, load(pack[b].at[v]));
          state[v].raise(top);
        }
#pragma unroll
        for (int b = 0; b < B; b++) {
          if (c + b * deep >= job.c) continue;
          if (k + b < job.kept) kept[(k + b) * threads] = pack[b];
          if constexpr (WEIGHTED) {
            const auto of = targets_of_class<T, V>(job, offset + (c + b * deep) * job.s, c + b * deep, position);
#pragma unroll
            for (int v = 0; v < V; v++) state[v].add(load(pack[b].at[v]), of.t[v], of.k[v], of.u[v]);
          } else {
#pragma unroll
            for (int v = 0; v < V; v++) state[v].add(load(pack[b].at[v]));
          }
        }
      }
    }
    if (deep > 1 && !job.lse) {
      __syncthreads();  // the room is still read for the positions before these
#pragma unroll
      for (int v = 0; v < V; v++) room[v * threads + thread] = state[v];
      __syncthreads();
#pragma unroll
      for (int v = 0; v < V; v++) {
        state[v] = room[v * threads + threadIdx.x];
        for (int d = 1; d < deep; d++) state[v].merge(room[v * threads + d * wide + threadIdx.x]);
      }
    }
    if (!inside) continue;
#pragma unroll
    for (int v = 0; v < V; v++) {
      const A z_y = position[v].live ? load(job.z[offset + v + position[v].y * job.s]) : A(0);
      position[v].conclude(job, state[v], z_y, factor, n * job.s + s + v, threadIdx.y == 0, sums);
    }
    if (!(job.grad || job.prob || job.hess)) continue;

#pragma unroll 2
    for (long long c = threadIdx.y, k = 0; c < job.c; c += deep, k++) {
      const long long at = offset + c * job.s;
      Pack<T, V> pack = {};
      if (looks) pack = k < job.kept && !job.lse ? kept[k * threads] : *reinterpret_cast<const Pack<T, V>*>(job.z + at);
      A z[V], g[V], p[V];
#pragma unroll
      for (int v = 0; v < V; v++) {
        z[v] = load(pack.at[v]);
        p[v] = position[v].prob(z[v]);
      }
      if constexpr (WEIGHTED) {
        const auto of = targets_of_class<T, V>(job, at, c, position);
#pragma unroll
        for (int v = 0; v < V; v++) g[v] = position[v].gradient(z[v], p[v], of.t[v], of.u[v]);
        if (job.hess) {
          A h[V];
#pragma unroll
          for (int v = 0; v < V; v++) h[v] = position[v].curvature(z[v], p[v], of.t[v]);
          write(job.hess + at, h);
        }
      } else {
#pragma unroll
        for (int v = 0; v < V; v++) g[v] = position[v].gradient(c, p[v]);
      }
      if (job.grad) write(job.grad + at, g);
      if (job.prob) write(job.prob + at, p);
    }
  }
  sums = sum_of_block(sums, room_of_sums());
  if (thread == 0) job.partials[blockIdx.x] = sums;
}

// ---- sums -------------------------------------------------------------------------------------------------------------------------------

// Σ of weights, count and first bad label, from labels and weights alone: what a gradient is divided by must be known before it is written.
template <class T> __global__ void __launch_bounds__(256, 1) label_sums(const Job<T> job) {
  Sums sums;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < job.n * job.s;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long c = class_of(job, i);
    if (c == kBad) sums.bad = i < sums.bad ? i : sums.bad;
    if (c < 0) continue;
    sums.count += 1;
    sums.weight += static_cast<double>(weight_of(job, i / job.s, i % job.s)) * (job.class_weight ? job.class_weight[c] : 1);
  }
  sums = sum_of_block(sums, room_of_sums());
  if (threadIdx.x == 0) job.partials[blockIdx.x] = sums;
}
