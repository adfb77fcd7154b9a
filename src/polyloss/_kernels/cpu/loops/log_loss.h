/* What log_loss.pyx and the loops of log_loss_simd.c, compiled once per instruction set, know of each other. Rows are the job's s. */
#ifndef POLYLOSS_LOG_LOSS_H
#define POLYLOSS_LOG_LOSS_H
#include "cpu/loops/kernel.h"

#define DECLARE_(isa) extern const kernel_loops log_loss_loops_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
