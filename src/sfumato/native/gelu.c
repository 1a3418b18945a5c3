/* GELU in its tanh form, forward and backward, for R rows of D features and a bias (D).
 *
 *   x + x tanh(u / 2) = 2 x sigmoid(u),    u = 2 sqrt(2 / pi) (x + 0.044715 x^3)
 *   y = x sigmoid(u) of x + bias,          dx = dy (s + x s (1 - s) du/dx),  s = sigmoid(u)
 *
 * A bias's gradient is summed by ROWS rows at a time, so that no result depends on the number of
 * threads. This file includes itself once for each type of the values.
 */
#ifndef PIXEL

#include "common.h"

#define ROWS 64
#define SLOPE 1.59576912f /* 2 sqrt(2 / pi) */
#define CUBE 0.044715f
#define FAR 12.0f /* where sigmoid(u) is 0 or 1 in float32, and no cube is too large yet */

typedef struct {
    int64_t R, D;
} Rows;

static inline float near_zero(float x) {
    x = x > FAR ? FAR : x;
    return x < -FAR ? -FAR : x;
}

static inline float gelu(float x) {
    float w = near_zero(x);
    return x * sigmoid(SLOPE * w * (1.0f + CUBE * w * w));
}

static inline float slope_of_gelu(float x) {
    float w = near_zero(x), s = sigmoid(SLOPE * w * (1.0f + CUBE * w * w));
    return s + w * s * (1.0f - s) * SLOPE * (1.0f + 3.0f * CUBE * w * w);
}

#define THIS "gelu.c"
#include "each.h"

#else

/* y (R, D). Returns 0. */
int NAME(gelu_forward)(const Rows *r, const PIXEL *x, const float *bias, PIXEL *y,
                       int64_t threads) {
    threads = threads_for(r->R * r->D, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < r->R; i++) {
        const PIXEL *row = x + i * r->D;
        PIXEL *restrict out = y + i * r->D;
        for (int64_t c = 0; c < r->D; c++) out[c] = STORE(gelu(LOAD(row[c]) + bias[c]));
    }
    return 0;
}

/* dx (R, D) and the gradient of bias (D). Returns 0, or 1 where memory is short. */
int NAME(gelu_backward)(const Rows *r, const PIXEL *x, const float *bias, const PIXEL *dy,
                        PIXEL *dx, float *d_bias, int64_t threads) {
    threads = threads_for(r->R * r->D, threads);
    int64_t parts = (r->R + ROWS - 1) / ROWS;
    float *sums = calloc(parts * r->D, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t u = 0; u < parts; u++) {
        float *restrict sum = sums + u * r->D;
        int64_t last = (u + 1) * ROWS < r->R ? (u + 1) * ROWS : r->R;
        for (int64_t i = u * ROWS; i < last; i++) {
            const PIXEL *row = x + i * r->D, *up = dy + i * r->D;
            PIXEL *restrict out = dx + i * r->D;
            for (int64_t c = 0; c < r->D; c++) {
                float d = LOAD(up[c]) * slope_of_gelu(LOAD(row[c]) + bias[c]);
                sum[c] += d;
                out[c] = STORE(d);
            }
        }
    }
    add_parts(sums, parts, r->D, r->D, d_bias);
    free(sums);
    return 0;
}

#endif
