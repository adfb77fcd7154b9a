/* Labels as classes. Every integer is compared as the number it is: the ignore values that its type cannot hold were dropped, and a
   negative one is above every class once it counts as unsigned; so is one below `base`, since differences of unsigned numbers wrap. */
#ifndef POLYLOSS_LABELS_H
#define POLYLOSS_LABELS_H
#include "cpu/loops/kernel.h"

enum { IGNORED = -1, BAD = -2 };

#define LABELS(TYPE)                                                                                                                       \
    if (stride == sizeof(TYPE) && j->ignored == 0) /* the usual stride is told apart so that the compiler can vectorise it */              \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t)((const TYPE *)from)[i] - base;                                                                         \
            to[i] = v < classes ? (int32_t)v : BAD;                                                                                        \
        }                                                                                                                                  \
    else if (stride == sizeof(TYPE) && j->ignored == 1) {                                                                                  \
        const uint64_t ignore = (uint64_t)j->ignore[0];                                                                                    \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t)((const TYPE *)from)[i];                                                                                \
            int32_t known = v - base < classes ? (int32_t)(v - base) : BAD;                                                                \
            to[i] = v == ignore ? IGNORED : known;                                                                                         \
        }                                                                                                                                  \
    } else                                                                                                                                 \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t)*(const TYPE *)(from + i * stride);                                                                     \
            to[i] = v - base < classes ? (int32_t)(v - base) : BAD;                                                                        \
            for (ptrdiff_t k = 0; k < j->ignored; k++)                                                                                     \
                if (v == (uint64_t)j->ignore[k]) to[i] = IGNORED;                                                                          \
        }                                                                                                                                  \
    break
/* Those of `count` neighbours along s, from (n, s) on. */
static void read_labels(int32_t *to, const kernel_job *j, ptrdiff_t n, ptrdiff_t s, ptrdiff_t count)
{
    const char *from = j->t.at + n * j->t.n + s * j->t.s;
    const ptrdiff_t stride = j->t.s;
    const uint64_t classes = j->classes, base = j->base;
    switch (j->t.type) {
    case TYPE_I8: LABELS(int8_t);
    case TYPE_I16: LABELS(int16_t);
    case TYPE_I32: LABELS(int32_t);
    case TYPE_I64: LABELS(int64_t);
    case TYPE_U8: LABELS(uint8_t);
    case TYPE_U16: LABELS(uint16_t);
    case TYPE_U32: LABELS(uint32_t);
    case TYPE_U64: LABELS(uint64_t);
    }
}
#endif
