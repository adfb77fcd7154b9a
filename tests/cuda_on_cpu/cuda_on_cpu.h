// Runs CUDA C++ kernels on the CPU, for tests: the kernel's own source, unchanged, compiled by g++.
//
// One operating-system thread carries everything. Each CUDA thread of a block is a fibre with a stack of its own; blocks run one after
// the other, those of one cluster together. A fibre gives way only where CUDA threads meet (barriers, warp operations), so atomics are
// plain operations, and every order of execution between two meetings is as good as another: `seed` picks one (0 ascending threads,
// 1 descending, else random).
//
// What is found: barriers that only some threads reach, deadlocks, bad masks, shuffles from lanes that do not take part (they give a NaN),
// shared memory read before it is written (NaN), shared and global memory out of bounds, misaligned vectors, integer overflow, failed
// asserts, stack overflow; with racecheck.h also data races. An error ends the launch and comes back as a string. CuPy compiles everything
// with -ftz=true, so subnormal floats count as 0 here, too.
//
// What is not modelled: inline PTX (a kernel puts it behind `#ifdef __CUDACC__`, the replacements are at the end), cooperative groups,
// tensor memory and asynchronous copies, grid-wide barriers, the order in which other blocks see writes, registers, speed.
#pragma once
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <type_traits>
#include <utility>
#ifndef __x86_64__
#include <ucontext.h>
#endif

// With -fsanitize=thread the compiler calls a function before each load and store; the shim's own accesses must not be among them.
#ifdef __SANITIZE_THREAD__
#define SHIM_RACE(...) __VA_ARGS__
#define SHIM_OWN __attribute__((no_sanitize("thread")))
#else
#define SHIM_RACE(...)
#define SHIM_OWN
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

// No variable of a function is static here: shared.ld would take it for a kernel's shared memory.
namespace shim {
enum {
  kWarp = 32,
  kMaxThreads = 1024,
  kMaxCluster = 8,
  kStack = 64 << 10,
  kSharedDefault = 48 << 10,
  kMaxShared = 227 << 10,
  kCanary = 64
};
constexpr uint64_t kPoison = 0x7ff8dead7fc0deadull;  // a NaN as a float and as a double

enum Op { kShuffle, kBallot, kSyncWarp };

struct Block {
  uint3 index;
  unsigned alive, at_barrier, at_cluster, count;
  int barrier_line;
  char* shared;  // dynamic shared memory
};
struct Fibre {
  void* stack_pointer;
  Block* block;
  uint3 tid;
  unsigned warp, lane;  // warp: counted through the blocks of the cluster
  uint64_t value, result;
  int source;
  const char* where;
  int line;
#ifndef __x86_64__
  ucontext_t context;
#endif
};
struct Meeting {
  uint32_t mask, arrived;
  Op op;
  int line;
};  // a warp operation that waits for the rest of its mask
struct Warp {
  uint32_t ready, live;
  int meetings;
  Meeting meeting[kWarp];
};

static Fibre fibres[kMaxCluster * kMaxThreads], main_fibre, *current;
static Warp warps[kMaxCluster * kMaxThreads / kWarp];
static Block blocks[kMaxCluster];
static dim3 block_dim, grid_dim;
static unsigned threads, running, cluster;  // threads of a block, blocks that run together now, blocks that a cluster barrier asked for
static unsigned order;
static size_t shared_bytes;
// Of all modules of a process together: a fence costs two of the 65530 mappings that Linux allows it.
static struct Stacks {
  char* at;
  size_t fences;  // how many end in a page that nobody may touch
}* stacks;
extern "C" __attribute__((visibility("default"))) void shim_stacks(Stacks* shared) { stacks = shared; }
static char signal_stack[64 << 10];
static char shared_memory_of[kMaxCluster][kMaxShared + kCanary] __attribute__((aligned(128)));
static char error[1024];
static void (*body)(void*);
static void* body_argument;

extern "C" {
extern char __start_shimshared[] __attribute__((weak));
extern char __stop_shimshared[] __attribute__((weak));
}

SHIM_RACE(void race_warp(unsigned warp, uint32_t lanes); void race_block(unsigned block); void race_cluster();
          void race_start(unsigned block); void race_atomic(void* address, size_t bytes);)

// ---- fibres ----------------------------------------------------------------------------------------------------------------------------
#ifdef __x86_64__
extern "C" __attribute__((visibility("hidden"))) void shim_switch(void** save, void* load);
asm(".text\n.globl shim_switch\n.hidden shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\nmovq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size shim_switch,.-shim_switch\n");
SHIM_OWN __attribute__((noinline)) static void change(Fibre* from, Fibre* to) { shim_switch(&from->stack_pointer, to->stack_pointer); }
SHIM_OWN inline void prepare(Fibre& f, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStack - 64);  // six saved registers, the return address, and the ABI's alignment
  memset(top, 0, 64);
  top[6] = reinterpret_cast<void*>(entry);
  f.stack_pointer = top;
}
#else
SHIM_OWN __attribute__((noinline)) static void change(Fibre* from, Fibre* to) { swapcontext(&from->context, &to->context); }
SHIM_OWN inline void prepare(Fibre& f, char* stack, void (*entry)()) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = stack;
  f.context.uc_stack.ss_size = kStack;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
}
#endif
SHIM_OWN inline void give_way() { change(current, &main_fibre); }

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  const uint3 b = current->block->index, t = current->tid;
  int n = snprintf(error, sizeof error, "block (%u,%u,%u) thread (%u,%u,%u): ", b.x, b.y, b.z, t.x, t.y, t.z);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error + n, sizeof error - n, format, arguments);
  va_end(arguments);
  for (;;) give_way();  // the scheduler sees the error and never comes back
}

static void on_bad_address(int, siginfo_t* info, void*) {
  if (!current) abort();
  const bool own_stack =
      static_cast<size_t>(static_cast<char*>(info->si_addr) - stacks->at) < static_cast<size_t>(kMaxCluster) * kMaxThreads * kStack;
  fail("%s %p", own_stack ? "stack overflow at" : "bad address", info->si_addr);
}

// ---- where threads meet ----------------------------------------------------------------------------------------------------------------
SHIM_OWN inline bool complete(unsigned w, int k) {  // whether all live lanes of the mask have come; hands out the results
  Warp& warp = warps[w];
  const Meeting m = warp.meeting[k];
  if (m.mask & warp.live & ~m.arrived) return false;
  Fibre* lanes = fibres + w * kWarp;
  uint32_t ballot = 0;
  for (uint32_t rest = m.arrived; rest; rest &= rest - 1)
    ballot |= static_cast<uint32_t>(lanes[__builtin_ctz(rest)].value != 0) << __builtin_ctz(rest);
  for (uint32_t rest = m.arrived; rest; rest &= rest - 1) {
    Fibre& f = lanes[__builtin_ctz(rest)];
    f.result = m.op == kBallot ? ballot : m.op == kShuffle && !(m.arrived >> f.source & 1) ? kPoison : lanes[f.source].value;
  }
  SHIM_RACE(race_warp(w, m.arrived);)
  warp.ready |= m.arrived;
  warp.meeting[k] = warp.meeting[--warp.meetings];
  return true;
}
SHIM_OWN inline uint64_t meet_warp(Op op, uint32_t mask, uint64_t value, int source, const char* where, int line) {
  Fibre& f = *current;
  Warp& w = warps[f.warp];
  const uint32_t own = 1u << f.lane;
  if (!(mask & own)) fail("%s:%d: a thread's own lane %u is not in its mask 0x%08x", where, line, f.lane, mask);
  f.value = value;
  f.source = source;
  f.where = where;
  f.line = line;
  int k = 0;
  while (k < w.meetings && w.meeting[k].mask != mask) k++;
  if (k < w.meetings && (w.meeting[k].op != op || w.meeting[k].line != line))
    fail("%s:%d: lanes of the mask 0x%08x wait in another warp operation, at line %d", where, line, mask, w.meeting[k].line);
  if (k == w.meetings) {
    for (int j = 0; j < k; j++)
      if (w.meeting[j].mask & mask & w.live)
        fail("%s:%d: mask 0x%08x overlaps 0x%08x, which lanes of this warp wait for", where, line, mask, w.meeting[j].mask);
    w.meeting[w.meetings++] = {mask, 0, op, line};
  }
  w.meeting[k].arrived |= own;
  w.ready &= ~own;
  if (!complete(f.warp, k)) give_way();
  return f.result;
}

SHIM_OWN inline unsigned warps_of_a_block() { return (threads + kWarp - 1) / kWarp; }
SHIM_OWN inline void wake(Block& b) {
  Warp* first = warps + (&b - blocks) * warps_of_a_block();
  for (unsigned w = 0; w < warps_of_a_block(); w++) first[w].ready = first[w].live;
}
SHIM_OWN inline void check_barriers(Block& b) {
  if (b.at_barrier && b.at_barrier == b.alive) {
    Fibre* first = fibres + (&b - blocks) * warps_of_a_block() * kWarp;
    for (unsigned t = 0; t < threads; t++) first[t].result = b.count;
    SHIM_RACE(race_block(&b - blocks);)
    b.at_barrier = b.count = 0;
    wake(b);
  }
  unsigned waiting = 0, alive = 0;
  for (unsigned k = 0; k < running; k++) {
    waiting += blocks[k].at_cluster;
    alive += blocks[k].alive;
  }
  if (waiting && waiting == alive && running >= cluster) {
    SHIM_RACE(race_cluster();)
    for (unsigned k = 0; k < running; k++) {
      blocks[k].at_cluster = 0;
      wake(blocks[k]);
    }
  }
}
SHIM_OWN inline unsigned meet_block(bool predicate, const char* where, int line) {
  Fibre& f = *current;
  Block& b = *f.block;
  if (b.at_barrier && b.barrier_line != line)
    fail("%s:%d: other threads of the block wait at the barrier of line %d", where, line, b.barrier_line);
  f.where = where;
  f.line = b.barrier_line = line;
  b.at_barrier++;
  b.count += predicate;
  warps[f.warp].ready &= ~(1u << f.lane);
  check_barriers(b);
  if (!(warps[f.warp].ready >> f.lane & 1)) give_way();
  return static_cast<unsigned>(f.result);
}
SHIM_OWN inline void meet_cluster(unsigned size, int line) {
  Fibre& f = *current;
  if (size > kMaxCluster || grid_dim.x % size) fail("cluster of %u blocks, grid of %u", size, grid_dim.x);
  if (__start_shimshared != __stop_shimshared) fail("__shared__ variables in a module with clusters: use shared_memory()");
  f.where = "cluster_sync";
  f.line = line;
  f.block->at_cluster++;
  cluster = size;
  warps[f.warp].ready &= ~(1u << f.lane);
  check_barriers(*f.block);
  if (!(warps[f.warp].ready >> f.lane & 1)) give_way();
}

// ---- a launch --------------------------------------------------------------------------------------------------------------------------
SHIM_OWN inline void entry() {
  body(body_argument);
  Fibre& f = *current;
  Warp& w = warps[f.warp];
  w.live &= ~(1u << f.lane);
  w.ready &= ~(1u << f.lane);
  f.block->alive--;
  for (int k = w.meetings; k-- > 0;) complete(f.warp, k);
  check_barriers(*f.block);
  for (;;) give_way();
}
SHIM_OWN inline unsigned random_bits() {
  order ^= order << 13;
  order ^= order >> 17;
  order ^= order << 5;
  return order;
}

SHIM_OWN inline void start_block(uint64_t linear) {
  const unsigned k = running++, per_block = warps_of_a_block();
  const unsigned x = linear % grid_dim.x, y = linear / grid_dim.x % grid_dim.y, z = linear / grid_dim.x / grid_dim.y;
  blocks[k] = {{x, y, z}, threads, 0, 0, 0, 0, shared_memory_of[k]};
  if (!k && __start_shimshared) memset(__start_shimshared, 0xff, __stop_shimshared - __start_shimshared);  // NaN, and -1
  memset(shared_memory_of[k], 0xff, shared_bytes);
  memset(shared_memory_of[k] + shared_bytes, 0x5a, kCanary);
  for (unsigned w = 0; w < per_block; w++) {
    const unsigned lanes = threads - w * kWarp;
    const uint32_t all = lanes >= kWarp ? ~0u : (1u << lanes) - 1;
    warps[k * per_block + w] = {all, all, 0, {}};
  }
  for (unsigned t = 0; t < threads; t++) {
    const unsigned at = k * per_block * kWarp + t;
    Fibre& f = fibres[at];
    f.block = &blocks[k];
    f.warp = at / kWarp;
    f.lane = at % kWarp;
    f.tid = {t % block_dim.x, t / block_dim.x % block_dim.y, t / (block_dim.x * block_dim.y)};
    // A stack that overflows meets this page. Only where a fibre runs.
    for (; stacks->fences <= at; stacks->fences++) mprotect(stacks->at + stacks->fences * kStack, 4096, PROT_NONE);
    prepare(f, stacks->at + at * static_cast<size_t>(kStack), entry);
  }
  SHIM_RACE(race_start(k);)
}

SHIM_OWN inline bool run_ready(unsigned w) {  // runs each ready lane until it waits; whether one was ready
  Warp& warp = warps[w];
  if (!warp.ready) return false;
  while (warp.ready && !error[0]) {
    unsigned lane = order == 1 ? 31 - __builtin_clz(warp.ready) : __builtin_ctz(warp.ready);
    if (order > 1) {
      const unsigned turn = random_bits() % kWarp;
      const uint32_t turned = warp.ready >> turn | (turn ? warp.ready << (kWarp - turn) : 0);
      lane = (__builtin_ctz(turned) + turn) % kWarp;
    }
    current = fibres + w * kWarp + lane;
    change(&main_fibre, current);
  }
  return true;
}
SHIM_OWN inline unsigned run_blocks(uint64_t first) {  // runs one block, or one cluster; how many blocks that were, 0 after an error
  running = cluster = 0;
  start_block(first);
  for (;;) {
    const unsigned count = running * warps_of_a_block(), turn = order > 1 ? random_bits() % count : 0;
    bool moved = false;
    for (unsigned j = 0; j < count && !error[0]; j++) moved |= run_ready(order == 1 ? count - 1 - j : (j + turn) % count);
    if (error[0]) return 0;
    if (moved) continue;
    if (running < cluster) {  // the first block waits for its cluster: start the others
      while (running < cluster) start_block(first + running);
      continue;
    }
    unsigned alive = 0;
    for (unsigned k = 0; k < running; k++) alive += blocks[k].alive;
    if (!alive) break;
    for (unsigned t = 0; t < count * kWarp; t++)
      if (warps[t / kWarp].live >> t % kWarp & 1) {
        current = fibres + t;
        const Block& b = *current->block;
        snprintf(error, sizeof error,
                 "block (%u,%u,%u): deadlock: %u of %u threads left, %u at a block barrier; thread (%u,%u,%u) waits in %s:%d", b.index.x,
                 b.index.y, b.index.z, b.alive, threads, b.at_barrier, current->tid.x, current->tid.y, current->tid.z, current->where,
                 current->line);
        return 0;
      }
  }
  for (unsigned k = 0; k < running; k++)
    for (int i = 0; i < kCanary; i++)
      if (shared_memory_of[k][shared_bytes + i] != 0x5a) {
        snprintf(error, sizeof error, "block (%u,%u,%u): wrote past the end of dynamic shared memory", blocks[k].index.x, blocks[k].index.y,
                 blocks[k].index.z);
        return 0;
      }
  return running;
}
// Numbers below the least normal one count as 0 while this lives, as -ftz=true has it.
struct Flush {
#ifdef __x86_64__
  unsigned before = __builtin_ia32_stmxcsr();
  SHIM_OWN explicit Flush(bool wanted) {
    if (wanted) __builtin_ia32_ldmxcsr(before | 0x8040);
  }
  SHIM_OWN ~Flush() { __builtin_ia32_ldmxcsr(before); }
#else
  explicit Flush(bool) {}
#endif
};
SHIM_OWN inline const char* launch(const unsigned* grid, const unsigned* block, size_t shared, unsigned seed, bool flush,
                                   void (*function)(void*), void* argument) {
  const Flush flushing(flush);
  error[0] = 0;
  grid_dim = {grid[0], grid[1], grid[2]};
  block_dim = {block[0], block[1], block[2]};
  threads = block[0] * block[1] * block[2];
  if (!threads || threads > kMaxThreads || shared > kMaxShared || !grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu ||
      grid[1] > 65535 || grid[2] > 65535)
    return "invalid launch configuration";
  const size_t all = static_cast<size_t>(kMaxCluster) * kMaxThreads * kStack;
  if (!stacks->at)
    stacks->at = static_cast<char*>(mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  shared_bytes = shared;
  body = function;
  body_argument = argument;
  order = seed;
  stack_t own = {}, old;
  own.ss_sp = signal_stack;
  own.ss_size = sizeof signal_stack;
  struct sigaction action = {}, segv, bus;
  action.sa_sigaction = on_bad_address;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaltstack(&own, &old);
  sigaction(SIGSEGV, &action, &segv);
  sigaction(SIGBUS, &action, &bus);
  const uint64_t count = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
  for (uint64_t k = 0, done; k < count; k += done)
    if (!(done = run_blocks(k))) break;
  sigaction(SIGSEGV, &segv, nullptr);
  sigaction(SIGBUS, &bus, nullptr);
  sigaltstack(&old, nullptr);
  current = nullptr;
  return error[0] ? error : nullptr;
}

// ---- one kernel behind the calling convention of cuLaunchKernel, and its signature for the caller's checks
// ---------------------------------
template <class... A> struct Call {
  void (*kernel)(A...);
  void** arguments;
  template <size_t... I> SHIM_OWN void go(std::index_sequence<I...>) { kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...); }
  SHIM_OWN static void run(void* self) { static_cast<Call*>(self)->go(std::index_sequence_for<A...>()); }
};
template <class... A>
const char* call(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t shared, unsigned seed, bool flush,
                 void** arguments) {
  Call<A...> c{kernel, arguments};
  return launch(grid, block, shared, seed, flush, &Call<A...>::run, &c);
}
static char description[1 << 10];
template <class T> int describe(char* out, size_t room) {  // "*f4", "*const i8", "u4", "V96": as NumPy writes it
  using Pointee = std::remove_pointer_t<T>;
  using Value = std::remove_cv_t<Pointee>;
  if constexpr (std::is_void<Value>::value)
    return snprintf(out, room, "*V0 ");
  else {
    const char kind = std::is_floating_point<Value>::value ? 'f'
                      : std::is_same<Value, bool>::value   ? 'b'
                      : !std::is_integral<Value>::value    ? 'V'
                      : std::is_unsigned<Value>::value     ? 'u'
                                                           : 'i';
    return snprintf(out, room, "%s%s%c%zu ", std::is_pointer<T>::value ? "*" : "", std::is_const<Pointee>::value ? "const_" : "", kind,
                    sizeof(Value));
  }
}
template <class... A> const char* signature(void (*)(A...)) {
  size_t n = 0;
  description[0] = 0;
  ((n += describe<A>(description + n, sizeof description - n)), ...);
  return description;
}

template <class T> uint64_t bits(T v) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t u = 0;
  memcpy(&u, &v, sizeof v);
  return u;
}
template <class T> T unbits(uint64_t u) {
  T v;
  memcpy(&v, &u, sizeof v);
  return v;
}
template <class T> T shuffle(uint32_t mask, T v, int lane, const char* where, int line) {
  return unbits<T>(meet_warp(kShuffle, mask, bits(v), lane, where, line));
}
template <class T, class F> SHIM_OWN T atomically(T* p, F change_of) {
  SHIM_RACE(race_atomic(p, sizeof(T));)
  const T old = *p;
  *p = change_of(old);
  return old;
}
}  // namespace shim

#define SHIM_EXPORT(N, ...)                                                                                                               \
  extern "C" __attribute__((visibility("default"))) const char* shim_call_##N(const unsigned* grid, const unsigned* block, size_t shared, \
                                                                              unsigned seed, bool flush, void** arguments) {              \
    return shim::call(&__VA_ARGS__, grid, block, shared, seed, flush, arguments);                                                         \
  }                                                                                                                                       \
  extern "C" __attribute__((visibility("default"))) const char* shim_signature_##N() { return shim::signature(&__VA_ARGS__); }

// g++ -fsanitize=bounds,alignment,... without its run-time library: these are the handlers it calls, and a report ends the launch.
struct ShimPlace {
  const char* file;
  unsigned line, column;
};
#define SHIM_CHECK(NAME, PARAMETERS, ...) \
  extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_##NAME PARAMETERS { shim::fail(__VA_ARGS__); }
SHIM_CHECK(out_of_bounds, (ShimPlace * at, uint64_t i), "%s:%u: index %lld out of bounds", at->file, at->line, static_cast<long long>(i))
SHIM_CHECK(type_mismatch_v1, (ShimPlace * at, void* p), "%s:%u: misaligned or null address %p", at->file, at->line, p)
SHIM_CHECK(divrem_overflow, (ShimPlace * at, uint64_t, uint64_t), "%s:%u: integer division by zero", at->file, at->line)
SHIM_CHECK(add_overflow, (ShimPlace * at, uint64_t, uint64_t), "%s:%u: integer overflow in +", at->file, at->line)
SHIM_CHECK(sub_overflow, (ShimPlace * at, uint64_t, uint64_t), "%s:%u: integer overflow in -", at->file, at->line)
SHIM_CHECK(mul_overflow, (ShimPlace * at, uint64_t, uint64_t), "%s:%u: integer overflow in *", at->file, at->line)
SHIM_CHECK(negate_overflow, (ShimPlace * at, uint64_t), "%s:%u: integer overflow in -", at->file, at->line)
SHIM_CHECK(shift_out_of_bounds, (ShimPlace * at, uint64_t, uint64_t by), "%s:%u: shift by %lld", at->file, at->line,
           static_cast<long long>(by))

#ifdef __SANITIZE_THREAD__
#include "racecheck.h"
#endif

// ---- the CUDA dialect, as far as the kernels and the shim's own tests speak it
// --------------------------------------------------------------
#define __global__
#define __device__
#define __shared__ static __attribute__((section("shimshared")))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx (shim::current->tid)
#define blockIdx (shim::current->block->index)
#define blockDim (shim::block_dim)
#define gridDim (shim::grid_dim)
#define __syncthreads() static_cast<void>(shim::meet_block(false, "__syncthreads", __LINE__))
#define __syncthreads_or(p) (shim::meet_block((p) != 0, "__syncthreads_or", __LINE__) != 0)
#define __syncwarp() static_cast<void>(shim::meet_warp(shim::kSyncWarp, ~0u, 0, 0, "__syncwarp", __LINE__))
#define __shfl_sync(mask, v, lane) shim::shuffle(mask, v, (lane) & 31, "__shfl_sync", __LINE__)
#define __shfl_xor_sync(mask, v, by) shim::shuffle(mask, v, static_cast<int>(shim::current->lane ^ (by)), "__shfl_xor_sync", __LINE__)
#define __ballot_sync(mask, p) static_cast<unsigned>(shim::meet_warp(shim::kBallot, mask, (p) != 0, 0, "__ballot_sync", __LINE__))
#undef assert
#define assert(c) ((c) ? static_cast<void>(0) : shim::fail("assert(%s), line %d", #c, __LINE__))

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(2) __half {
  _Float16 v;
};
struct alignas(2) __nv_bfloat16 {
  uint16_t v;
};
inline float __half2float(__half h) { return static_cast<float>(h.v); }
inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
inline float __bfloat162float(__nv_bfloat16 b) { return shim::unbits<float>(static_cast<uint64_t>(b.v) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {  // to nearest, ties to even
  const uint32_t u = static_cast<uint32_t>(shim::bits(f));
  return {static_cast<uint16_t>(f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline float __expf(float x) { return exp2f(x * 1.4426950408889634f); }  // as the GPU forms it, from ex2
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline int __float_as_int(float x) { return static_cast<int>(shim::bits(x)); }
inline long long __double_as_longlong(double x) { return static_cast<long long>(shim::bits(x)); }
inline float __int_as_float(int i) { return shim::unbits<float>(shim::bits(i)); }
inline double __longlong_as_double(long long i) { return shim::unbits<double>(shim::bits(i)); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T v) { *p = v; }
template <class T> inline std::enable_if_t<std::is_integral<T>::value, T> min(T a, T b) { return b < a ? b : a; }
template <class T> inline std::enable_if_t<std::is_integral<T>::value, T> max(T a, T b) { return a < b ? b : a; }
template <class T> inline T atomicAdd(T* p, T v) {
  return shim::atomically(p, [&](T old) { return old + v; });
}
template <class T> inline T atomicMin(T* p, T v) {
  return shim::atomically(p, [&](T old) { return v < old ? v : old; });
}

// What the kernels write in PTX, or as an extern array, for a GPU.
template <class T> inline T* shared_memory() { return reinterpret_cast<T*>(shim::current->block->shared); }
template <int N> inline unsigned cluster_rank() { return blockIdx.x % N; }
template <int N> inline void cluster_sync() { shim::meet_cluster(N, __LINE__); }
template <class T> inline T load_remote(const T* own, unsigned rank) {  // the same place in another block's shared memory
  if (rank >= shim::running) shim::fail("load_remote: block %u of the cluster has not started: a cluster_sync is missing", rank);
  if (!shim::blocks[rank].alive) shim::fail("load_remote: block %u of the cluster has ended", rank);
  return *reinterpret_cast<const T*>(shim::blocks[rank].shared + (reinterpret_cast<const char*>(own) - shim::current->block->shared));
}
