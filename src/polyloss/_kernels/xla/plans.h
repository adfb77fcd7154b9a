/* The plans that programs of XLA have called, bound to their kernels: what a call's text stands for in this process.

   XLA's threads look plans up without a lock, while others may add one: an entry is complete before it is in the table, and is never
   changed, moved or freed from then on. */
#ifndef POLYLOSS_PLANS_H
#define POLYLOSS_PLANS_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif

enum {
    PLAN_DIGEST = 16,  /* bytes at the beginning of a text, as random as a hash */
    PLAN_PLACES = 4096, /* a power of two; three quarters of them are filled at most: beyond, calls enter Python */
    PLAN_BUFFERS = 16
};

typedef struct {
    int role; /* of the kernel's arrays, or one of its numbers */
    int type; /* as XLA counts them */
    int64_t size;
    size_t bytes;
} plan_buffer;

typedef struct {
    const char *text;
    size_t length;
    int threads; /* that the kernel may use: another number is another entry */
    void *kernel; /* NULL: none takes the buffers as they lie */
    int arguments, results;
    plan_buffer buffers[PLAN_BUFFERS]; /* of the arguments, then of the results */
} plan_entry;

static plan_entry *plan_table[PLAN_PLACES];
static int plan_threads_allowed = 1;

/* How many threads kernels may use. */
static int plan_threads(void)
{
#ifdef _MSC_VER
    return *(volatile int *)&plan_threads_allowed;
#else
    return __atomic_load_n(&plan_threads_allowed, __ATOMIC_RELAXED);
#endif
}
static void plan_allow(int threads)
{
#ifdef _MSC_VER
    *(volatile int *)&plan_threads_allowed = threads;
#else
    __atomic_store_n(&plan_threads_allowed, threads, __ATOMIC_RELAXED);
#endif
}

static plan_entry *plan_at(size_t i)
{
#ifdef _MSC_VER
    return (plan_entry *)_InterlockedCompareExchangePointer((void *volatile *)&plan_table[i], NULL, NULL);
#else
    return __atomic_load_n(&plan_table[i], __ATOMIC_ACQUIRE);
#endif
}

/* Put an entry where there is none; whether that was so. */
static int plan_put(size_t i, plan_entry *entry)
{
#ifdef _MSC_VER
    return _InterlockedCompareExchangePointer((void *volatile *)&plan_table[i], entry, NULL) == NULL;
#else
    plan_entry *none = NULL;
    return __atomic_compare_exchange_n(&plan_table[i], &none, entry, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
#endif
}

static size_t plan_first(const char *text, int threads)
{
    uint64_t words[2];
    memcpy(words, text, PLAN_DIGEST);
    return (size_t)((words[0] ^ words[1] * 3 ^ (uint64_t)threads) * 0x9E3779B97F4A7C15u >> 40);
}

/* The entry of a text and a number of threads, or NULL. */
static const plan_entry *plan_of(const char *text, size_t length, int threads)
{
    if (length < PLAN_DIGEST) return NULL;
    for (size_t i = plan_first(text, threads);; i++) {
        const plan_entry *entry = plan_at(i % PLAN_PLACES);
        if (!entry) return NULL;
        if (entry->length == length && entry->threads == threads && !memcmp(entry->text, text, length)) return entry;
    }
}

/* Add an entry, which is the table's from then on; 0 where there is no room, or one of the same text by now. */
static int plan_add(plan_entry *entry)
{
    size_t filled = 0;
    for (size_t i = 0; i < PLAN_PLACES; i++) filled += plan_at(i) != NULL;
    if (filled >= PLAN_PLACES / 4 * 3 || plan_of(entry->text, entry->length, entry->threads)) return 0;
    for (size_t i = plan_first(entry->text, entry->threads);; i++)
        if (plan_put(i % PLAN_PLACES, entry)) return 1;
}
#endif
