/* What the machine's memory allows: the fastest parallel read of an array, and the fastest parallel copy.
   Four accumulators hide the latency of the additions, and prefetching 4 KB ahead carries the stream over the ends of pages, where the
   hardware's prefetcher stops. The copy writes past the caches, as a gradient is written that nobody reads at once. Words are added as
   integers, so that the sum is exact and its time doesn't depend on what the array holds. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef uint64_t words __attribute__((vector_size(64)));
enum { WORDS = 8, BLOCK = 4096, AHEAD = 512 }; /* in words */

static inline words load(const uint64_t *x)
{
    words v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void stream(uint64_t *out, words v) /* out: on a multiple of 64 bytes */
{
#if defined __AVX512F__
    _mm512_stream_si512((void *)out, (__m512i)v);
#elif defined __AVX__
    __m256i half[2];
    memcpy(half, &v, sizeof v);
    _mm256_stream_si256((__m256i *)out, half[0]);
    _mm256_stream_si256((__m256i *)out + 1, half[1]);
#else
    memcpy(out, &v, sizeof v);
#endif
}

uint64_t limits_read(const uint64_t *x, ptrdiff_t n, int threads) /* x: (n,) */
{
    uint64_t total = 0;
#pragma omp parallel for reduction(+ : total) schedule(static) num_threads(threads)
    for (ptrdiff_t start = 0; start < n / BLOCK * BLOCK; start += BLOCK) {
        words sums[4] = {{0}};
        for (const uint64_t *p = x + start; p < x + start + BLOCK; p += 4 * WORDS)
            for (int i = 0; i < 4; i++) {
                __builtin_prefetch(p + AHEAD + i * WORDS);
                sums[i] += load(p + i * WORDS);
            }
        words sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        for (int i = 0; i < WORDS; i++) total += sum[i];
    }
    for (ptrdiff_t i = n / BLOCK * BLOCK; i < n; i++) total += x[i];
    return total;
}

void limits_copy(const uint64_t *x, uint64_t *out, ptrdiff_t n, int threads) /* x, out: (n,) */
{
    ptrdiff_t head = (ptrdiff_t)(-(uintptr_t)out % 64 / sizeof *out);
    if (head > n) head = n;
    ptrdiff_t end = head + (n - head) / WORDS * WORDS;
    memcpy(out, x, (size_t)head * sizeof *out);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (ptrdiff_t start = head; start < end; start += BLOCK)
        for (ptrdiff_t i = start; i < end && i < start + BLOCK; i += WORDS) {
            __builtin_prefetch(x + i + AHEAD);
            stream(out + i, load(x + i));
        }
    memcpy(out + end, x + end, (size_t)(n - end) * sizeof *out);
}
