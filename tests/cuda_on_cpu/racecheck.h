// Finds data races of a kernel that cuda_on_cpu.h runs. g++ -fsanitize=thread calls __tsan_read4(p) and so on before each load and store;
// libtsan is not linked, these are our own.
//
// Two accesses to one byte race if one of them writes, not both are atomic, and nothing orders them. Ordered are the accesses of one
// thread; those before and after a barrier of their block or cluster; those before and after an operation of their warp, after which each
// lane also knows what the others knew.
#pragma once
namespace shim {
struct Stamp {
  void* code;
  unsigned block, cluster, cluster_epoch, block_epoch, clock;
  uint16_t thread;  // in its block
  bool set, atomic;
};
struct Cell {
  Stamp write, read[2];
};
struct Page {
  uintptr_t number;
  Cell* cells;
};
enum { kPage = 4096, kPages = 1 << 12 };  // a launch may touch 16 MB

static Page pages[kPages], last;
static unsigned started, first_of_cluster, cluster_epoch, block_epoch[kMaxCluster];  // started: blocks since the launch began
static unsigned known[kMaxCluster * kMaxThreads][kWarp];  // known[t][lane]: the clock of that lane of its warp when t last heard of it

SHIM_OWN inline void race_block(unsigned block) { block_epoch[block]++; }
SHIM_OWN inline void race_cluster() {
  cluster_epoch++;
  for (unsigned k = 0; k < running; k++) block_epoch[k]++;
}
SHIM_OWN inline void race_start(unsigned block) {
  const uint3 at = blocks[block].index;
  if (!(at.x | at.y | at.z)) {  // a launch begins: what came before it is in order
    for (Page& p : pages) {
      free(p.cells);
      p = {0, nullptr};
    }
    last = {0, nullptr};
    started = 0;
  }
  if (!block) {
    first_of_cluster = started;
    cluster_epoch = 0;
  }
  started++;
  block_epoch[block] = 0;
  const unsigned first = block * warps_of_a_block() * kWarp;
  memset(known[first], 0, threads * sizeof known[0]);
  for (unsigned t = first; t < first + threads; t++) known[t][t % kWarp] = 1;
}
SHIM_OWN inline void race_warp(unsigned w, uint32_t lanes) {
  unsigned joined[kWarp] = {};
  for (uint32_t rest = lanes; rest; rest &= rest - 1)
    for (int l = 0; l < kWarp; l++) {
      const unsigned v = known[w * kWarp + __builtin_ctz(rest)][l];
      if (v > joined[l]) joined[l] = v;
    }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    unsigned* own = known[w * kWarp + __builtin_ctz(rest)];
    memcpy(own, joined, sizeof joined);
    own[__builtin_ctz(rest)]++;
  }
}
SHIM_OWN inline bool in_order(const Stamp& before, const Stamp& now, unsigned fibre) {
  if (!before.set) return true;
  if (before.block != now.block) return before.cluster == now.cluster && before.cluster_epoch < now.cluster_epoch;
  if (before.thread == now.thread || before.block_epoch < now.block_epoch) return true;
  return before.thread / kWarp == now.thread / kWarp && known[fibre][before.thread % kWarp] >= before.clock;
}
SHIM_OWN inline Cell* cells_of(uintptr_t page) {
  if (page == last.number) return last.cells;
  size_t k = page * 0x9e3779b97f4a7c15ull >> 52, tries = 0;
  while (pages[k].number && pages[k].number != page) {
    if (++tries == kPages) fail("racecheck: the launch touches too much memory");
    k = (k + 1) % kPages;
  }
  if (!pages[k].number) pages[k] = {page, static_cast<Cell*>(calloc(kPage, sizeof(Cell)))};
  return (last = pages[k]).cells;
}
SHIM_OWN __attribute__((noinline)) static void race_access(void* p, size_t bytes, bool write, bool atomic, void* code) {
  uintptr_t a = reinterpret_cast<uintptr_t>(p);
  if (!current || a - reinterpret_cast<uintptr_t>(stacks->at) < static_cast<size_t>(kMaxCluster) * kMaxThreads * kStack)
    return;  // a thread's own variables
  const unsigned fibre = static_cast<unsigned>(current - fibres), own = static_cast<unsigned>(current->block - blocks);
  const uint3 tid = current->tid;
  const bool is_static =
      __start_shimshared && a >= reinterpret_cast<uintptr_t>(__start_shimshared) && a < reinterpret_cast<uintptr_t>(__stop_shimshared);
  const bool is_shared = is_static || a - reinterpret_cast<uintptr_t>(shared_memory_of) < sizeof shared_memory_of;
  const Stamp now{code,
                  first_of_cluster + own,
                  first_of_cluster,
                  cluster_epoch,
                  block_epoch[own],
                  known[fibre][fibre % kWarp],
                  static_cast<uint16_t>(tid.x + block_dim.x * (tid.y + block_dim.y * tid.z)),
                  true,
                  atomic};
  auto check = [&](Stamp& before, const char* was) SHIM_OWN {
    if (is_shared && before.cluster != now.cluster) before.set = false;  // shared memory begins anew with each block
    if (atomic && before.atomic) return;
    if (!in_order(before, now, fibre))
      fail("data race at %p: %s, pc:%p, unordered with an earlier %s by %s thread %u, pc:%p", reinterpret_cast<void*>(a),
           atomic  ? "atomic"
           : write ? "write"
                   : "read",
           code, before.atomic ? "atomic" : was, before.block == now.block ? "this block's" : "another block's", before.thread,
           before.code);
  };
  for (size_t i = 0; i < bytes; i++, a++) {
    Cell& c = cells_of(a / kPage)[a % kPage];
    check(c.write, "write");
    if (write) {
      for (Stamp& r : c.read) {
        check(r, "read");
        r.set = false;
      }
      c.write = now;
    } else if (!c.read[0].set || (is_shared && c.read[0].cluster != now.cluster) || in_order(c.read[0], now, fibre))
      c.read[0] = now;
    else
      c.read[1] = now;
  }
}
SHIM_OWN inline void race_atomic(void* p, size_t bytes) { race_access(p, bytes, true, true, __builtin_return_address(0)); }
}  // namespace shim

#define SHIM_HOOK(NAME, BYTES, WRITE)                                                  \
  extern "C" __attribute__((visibility("hidden"), used)) SHIM_OWN void NAME(void* p) { \
    shim::race_access(p, BYTES, WRITE, false, __builtin_return_address(0));            \
  }
#define SHIM_HOOKS(N)                 \
  SHIM_HOOK(__tsan_read##N, N, false) \
  SHIM_HOOK(__tsan_write##N, N, true) SHIM_HOOK(__tsan_unaligned_read##N, N, false) SHIM_HOOK(__tsan_unaligned_write##N, N, true)
SHIM_HOOKS(1)
SHIM_HOOKS(2)
SHIM_HOOKS(4)
SHIM_HOOKS(8)
SHIM_HOOKS(16)
#define SHIM_RANGE(NAME, WRITE)                                                                  \
  extern "C" __attribute__((visibility("hidden"), used)) SHIM_OWN void NAME(void* p, size_t n) { \
    shim::race_access(p, n, WRITE, false, __builtin_return_address(0));                          \
  }
SHIM_RANGE(__tsan_read_range, false)
SHIM_RANGE(__tsan_write_range, true)
#define SHIM_NOTHING(NAME, ...) \
  extern "C" __attribute__((visibility("hidden"), used)) SHIM_OWN void NAME(__VA_ARGS__) {}
SHIM_NOTHING(__tsan_vptr_update, void**, void*)
SHIM_NOTHING(__tsan_func_entry, void*)
SHIM_NOTHING(__tsan_func_exit)
SHIM_NOTHING(__tsan_init)
