/* What a handler of XLA's typed FFI on the CPU must know of its C API: memory layouts, declared here so that building needs no jaxlib.

   The layouts are those of versions 0.1 to 0.3. Structs begin with their size and grow at their ends, XLA supports a version for a year at
   least, and asks a handler for the version it was written for when it is registered: one that XLA no longer has is refused there.
   tests/test_jax.py compiles this beside jaxlib's own header, and compares every offset. */
#ifndef POLYLOSS_XLA_FFI_H
#define POLYLOSS_XLA_FFI_H
#include <stddef.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { XLA_MAJOR = 0, XLA_MINOR = 3 }; /* the latest version whose layouts were compared */
enum { XLA_METADATA = 1, XLA_STRING = 4, XLA_INTERNAL_ERROR = 13 };
enum { XLA_PRED = 1, XLA_S8, XLA_S16, XLA_S32, XLA_S64, XLA_U8, XLA_U16, XLA_U32, XLA_U64, XLA_F16, XLA_F32, XLA_F64, XLA_BF16 = 16 };

typedef struct xla_extension {
    size_t size;
    int type;
    struct xla_extension *next;
} xla_extension;

typedef struct {
    size_t size;
    xla_extension *extension;
    int major, minor;
} xla_version;

typedef struct {
    size_t size;
    xla_version version;
    uint32_t traits;
} xla_metadata;

typedef struct { /* asks what a handler was written for, instead of calling it */
    xla_extension base;
    xla_metadata *metadata;
} xla_metadata_extension;

typedef struct {
    size_t size;
    xla_extension *extension;
    int type;
    void *data;
    int64_t rank;
    int64_t *dims; /* (rank,) */
} xla_buffer;

typedef struct {
    size_t size;
    xla_extension *extension;
    int64_t count;
    int *types;           /* (count,) */
    xla_buffer **buffers; /* (count,) */
} xla_buffers;

typedef struct {
    const char *at;
    size_t length;
} xla_span;

typedef struct {
    size_t size;
    xla_extension *extension;
    int64_t count;
    int *types;       /* (count,) */
    xla_span **names; /* (count,) */
    void **values;    /* (count,): xla_span where the type is XLA_STRING */
} xla_attributes;

typedef struct xla_error xla_error;
typedef struct {
    size_t size;
    xla_extension *extension;
    const char *message;
    int code;
} xla_error_arguments;

typedef struct {
    size_t size;
    xla_extension *extension;
    xla_version version;
    const void *internal;
    xla_error *(*error)(xla_error_arguments *);
} xla_api;

typedef struct {
    size_t size;
    xla_extension *extension;
    const xla_api *api;
    void *context;
    int stage;
    xla_buffers arguments, results;
    xla_attributes attributes;
} xla_frame;

/* Whether the frame asks for the version alone, which is then told: the runtime's own, or the latest one known. A runtime that is older
   than the version told refuses the handler. */
static int xla_asked_for_version(xla_frame *frame)
{
    if (!frame->extension || frame->extension->type != XLA_METADATA) return 0;
    xla_metadata *metadata = ((xla_metadata_extension *)frame->extension)->metadata;
    const int theirs = frame->api ? frame->api->version.minor : 1; /* that of jaxlib 0.7, which gives no API here */
    metadata->version.major = XLA_MAJOR;
    metadata->version.minor = theirs < XLA_MINOR ? theirs : XLA_MINOR;
    metadata->traits = 0;
    return 1;
}
static xla_error *xla_fail(xla_frame *frame, const char *message)
{
    xla_error_arguments arguments = {sizeof arguments, NULL, message, XLA_INTERNAL_ERROR};
    return frame->api->error(&arguments);
}
static int64_t xla_size(const xla_buffer *buffer)
{
    int64_t size = 1;
    for (int64_t k = 0; k < buffer->rank; k++) size *= buffer->dims[k];
    return size;
}
/* Ask for huge pages under a result that is about to be written for the first time: XLA takes its memory in pages of 4 KB, and mapping
   those of 131 MB costs 40 ms, five times what writing them does. */
static void xla_huge_pages(const xla_buffer *buffer, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t first = ((uintptr_t)buffer->data + 4095) / 4096 * 4096, last = ((uintptr_t)buffer->data + bytes) / 4096 * 4096;
    if (bytes >= 1 << 22) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)buffer, (void)bytes;
#endif
}
#endif
