/* What the files share that multiply matrices: vectors, and how many go into a processor. */
#ifndef SFUMATO_VECTORS_H
#define SFUMATO_VECTORS_H

#include "common.h"

#if defined(__AVX512F__)
#define LANES 16
#define SIDE 4 /* vectors to a panel */
#else
#define LANES 8
#define SIDE 2
#endif
#define ROWS 6 /* of a product that are worked on together: ROWS x SIDE sums in registers */
#define WIDE (LANES * SIDE)
#define FEW 4 /* as ROWS, where rows come in sixteens */

#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline vec get(const float *at) { return *(const loose *)at; }
static inline void put(float *at, vec v) { *(loose *)at = v; }

#endif
