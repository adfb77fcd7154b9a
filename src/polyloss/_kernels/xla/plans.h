/* The plans that programs of XLA have called, bound to their kernels: what a call's text stands for in this process.

   XLA's threads look plans up without a lock, while others may add one: an entry is complete before it is in a table, and is never
   changed, moved or freed from then on, since a program may call it at any time. For the same reason a full table does not grow: one of
   twice its size follows it, and who finds nothing in a table looks into the next. */
#ifndef POLYLOSS_PLANS_H
#define POLYLOSS_PLANS_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif

enum {
    PLAN_DIGEST = 16,  /* bytes at the beginning of a text, as random as a hash */
    PLAN_PLACES = 256, /* of the first table; of any table three quarters are filled at most */
    PLAN_TABLES = 16,  /* 12 million entries: beyond, calls enter Python */
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

static void *plan_tables[PLAN_TABLES]; /* plan_entry *[PLAN_PLACES << k], or NULL as long as those before suffice */
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

/* What is at a place, complete. */
static void *plan_at(void **place)
{
#ifdef _MSC_VER
    return _InterlockedCompareExchangePointer((void *volatile *)place, NULL, NULL);
#else
    return __atomic_load_n(place, __ATOMIC_ACQUIRE);
#endif
}

/* Put something where there is nothing; whether that was so. */
static int plan_put(void **place, void *it)
{
#ifdef _MSC_VER
    return _InterlockedCompareExchangePointer((void *volatile *)place, it, NULL) == NULL;
#else
    void *none = NULL;
    return __atomic_compare_exchange_n(place, &none, it, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
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
    const size_t first = plan_first(text, threads);
    for (int k = 0; k < PLAN_TABLES; k++) {
        void **table = (void **)plan_at(&plan_tables[k]);
        if (!table) return NULL;
        const plan_entry *entry;
        for (size_t i = first; (entry = (const plan_entry *)plan_at(&table[i % ((size_t)PLAN_PLACES << k)])); i++)
            if (entry->length == length && entry->threads == threads && !memcmp(entry->text, text, length)) return entry;
    }
    return NULL;
}

/* Table k, new where there is none yet; NULL: there is no memory. */
static void **plan_table(int k)
{
    void *table = plan_at(&plan_tables[k]);
    if (table) return (void **)table;
    table = calloc((size_t)PLAN_PLACES << k, sizeof(void *));
    if (!table || plan_put(&plan_tables[k], table)) return (void **)table;
    free(table); /* another thread was here first */
    return (void **)plan_at(&plan_tables[k]);
}

/* Add an entry, which belongs to the tables from then on; 0 where there is no room, or one of the same text by now. */
static int plan_add(plan_entry *entry)
{
    if (plan_of(entry->text, entry->length, entry->threads)) return 0;
    for (int k = 0; k < PLAN_TABLES; k++) {
        const size_t places = (size_t)PLAN_PLACES << k;
        void **table = plan_table(k);
        if (!table) return 0;
        size_t filled = 0;
        for (size_t i = 0; i < places; i++) filled += plan_at(&table[i]) != NULL;
        if (filled >= places / 4 * 3) continue;
        for (size_t i = plan_first(entry->text, entry->threads);; i++)
            if (plan_put(&table[i % places], entry)) return 1;
    }
    return 0;
}
#endif
