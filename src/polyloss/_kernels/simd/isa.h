/* The builds of a module's loops, best first, and which of them this machine can execute.
   setup.py compiles X_simd.c once for every name in POLYLOSS_ISAS, with ISA defined as that name; what the file exports ends in it:
       const kernel_loops WITH_ISA(X_loops) = {...};
   and the module chooses among the tables by index, in the order of this list. */
#ifndef POLYLOSS_ISA_H
#define POLYLOSS_ISA_H

#ifdef POLYLOSS_X86_64
#define POLYLOSS_ISAS(X) X(x86_64_v4) X(x86_64_v3) X(x86_64_v2)
#else
#define POLYLOSS_ISAS(X) X(baseline)
#endif
#define WITH_ISA_(name, isa) name##_##isa
#define WITH_ISA__(name, isa) WITH_ISA_(name, isa)
#define WITH_ISA(name) WITH_ISA__(name, ISA)

#define ISA_COUNT_(isa) +1
enum { ISA_COUNT = 0 POLYLOSS_ISAS(ISA_COUNT_) };
#define ISA_NAME_(isa) #isa,
static const char *const isa_names[] = {POLYLOSS_ISAS(ISA_NAME_)};

/* The features are named one by one because clang's __builtin_cpu_supports doesn't know the levels. */
static inline int isa_supported(int i)
{
#ifdef POLYLOSS_X86_64
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt"))) return 0;
    if (i == 2) return 1;
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
          __builtin_cpu_supports("bmi2")))
        return 0; /* every processor with AVX2 has F16C; gcc before 11 can't be asked */
    if (i == 1) return 1;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return i == 0;
#endif
}
#endif
