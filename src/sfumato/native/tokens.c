/* What a transformer does to tokens x[b][n][d] of B images, N tokens and D features beside its
 * products, forward and backward; scale, shift and gate are one for each image and feature.
 *
 *   modulate:  y = m (1 + scale) + shift,   m = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)
 *   gate:      y = x + gate h
 *
 * With g = dy (1 + scale) and averages over a token's features dx = rstd (g - avg(g) - m avg(g m)).
 * Gradients of scale, shift and gate are summed by ROWS tokens at a time, so that no result depends
 * on the number of threads.
 *
 * This file includes itself once for each pair of types: of x, and of what a product takes or gives.
 */
#ifndef PIXEL

#include "common.h"

#define ROWS 64

typedef struct {
    const float *scale, *shift, *gate; /* (B, D), where a function asks for them */
    float *mean, *rstd;                /* (B, N) */
    int64_t B, N, D;
    double eps;
} Tokens;

/* Unit of work number u: tokens first .. last - 1 of all B N, all of them of image b. */
typedef struct {
    int64_t b, first, last;
} Unit;

static int64_t parts_of(const Tokens *t) { return (t->N + ROWS - 1) / ROWS; }

static Unit unit_of(const Tokens *t, int64_t u) {
    int64_t parts = parts_of(t), start = u % parts * ROWS;
    Unit w = {u / parts, u / parts * t->N + start, 0};
    w.last = w.first + (start + ROWS < t->N ? ROWS : t->N - start);
    return w;
}

/* to (B, D) of the units' sums, which lie `stride` apart */
static void add_units(const Tokens *t, const float *sums, int64_t stride, float *to) {
    int64_t parts = parts_of(t);
    for (int64_t b = 0; b < t->B; b++)
        add_parts(sums + b * parts * stride, parts, stride, t->D, to + b * t->D);
}

#define PIXEL float
#define LOAD load_f32
#define STORE store_f32
#define OTHER float
#define LOAD_OTHER load_f32
#define STORE_OTHER store_f32
#define NAME(f) f##_f32_f32
#include "tokens.c"
#undef OTHER
#undef LOAD_OTHER
#undef STORE_OTHER
#undef NAME

#define OTHER uint16_t
#define LOAD_OTHER load_bf16
#define STORE_OTHER store_bf16
#define NAME(f) f##_f32_bf16
#include "tokens.c"
#undef PIXEL
#undef LOAD
#undef STORE
#undef NAME

#define PIXEL uint16_t
#define LOAD load_bf16
#define STORE store_bf16
#define NAME(f) f##_bf16_bf16
#include "tokens.c"

#else

static inline void NAME(moments)(const PIXEL *x, int64_t count, double eps, float *mean,
                                 float *rstd) {
    float sum = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; c++) sum += LOAD(x[c]);
    float middle = sum / (float)count;
#pragma omp simd reduction(+ : square)
    for (int64_t c = 0; c < count; c++) {
        float v = LOAD(x[c]) - middle;
        square += v * v;
    }
    *mean = middle;
    *rstd = (float)(1.0 / sqrt((double)square / count + eps));
}

/* y (B, N, D), mean and rstd (B, N) of x (B, N, D). Returns 0. */
int NAME(modulate_forward)(const Tokens *t, const PIXEL *x, OTHER *y, int64_t threads) {
    threads = threads_for(t->B * t->N * t->D, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < t->B * t->N; i++) {
        const PIXEL *row = x + i * t->D;
        const float *scale = t->scale + i / t->N * t->D, *shift = t->shift + i / t->N * t->D;
        OTHER *restrict out = y + i * t->D;
        NAME(moments)(row, t->D, t->eps, t->mean + i, t->rstd + i);
        float mean = t->mean[i], rstd = t->rstd[i];
        for (int64_t c = 0; c < t->D; c++)
            out[c] = STORE_OTHER((LOAD(row[c]) - mean) * rstd * (1.0f + scale[c]) + shift[c]);
    }
    return 0;
}

/* dx (B, N, D), the gradients of scale and shift (B, D). Returns 0, or 1 where memory is short. */
int NAME(modulate_backward)(const Tokens *t, const PIXEL *x, const OTHER *dy, PIXEL *dx,
                            float *d_scale, float *d_shift, int64_t threads) {
    threads = threads_for(t->B * t->N * t->D, threads);
    int64_t units = t->B * parts_of(t);
    float *sums = calloc(units * 2 * t->D, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t u = 0; u < units; u++) {
        Unit w = unit_of(t, u);
        const float *scale = t->scale + w.b * t->D;
        float *restrict of_scale = sums + u * 2 * t->D, *restrict of_shift = of_scale + t->D;
        for (int64_t i = w.first; i < w.last; i++) {
            const PIXEL *row = x + i * t->D;
            const OTHER *up = dy + i * t->D;
            PIXEL *restrict out = dx + i * t->D;
            float mean = t->mean[i], rstd = t->rstd[i], all = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : all, along)
            for (int64_t c = 0; c < t->D; c++) {
                float d = LOAD_OTHER(up[c]), m = (LOAD(row[c]) - mean) * rstd;
                float g = d * (1.0f + scale[c]);
                of_scale[c] += d * m;
                of_shift[c] += d;
                all += g;
                along += g * m;
            }
            all /= (float)t->D, along /= (float)t->D;
            for (int64_t c = 0; c < t->D; c++) {
                float m = (LOAD(row[c]) - mean) * rstd;
                float g = LOAD_OTHER(up[c]) * (1.0f + scale[c]);
                out[c] = STORE(rstd * (g - all - m * along));
            }
        }
    }
    add_units(t, sums, 2 * t->D, d_scale);
    add_units(t, sums + t->D, 2 * t->D, d_shift);
    free(sums);
    return 0;
}

/* y (B, N, D). Returns 0. */
int NAME(gate_forward)(const Tokens *t, const PIXEL *x, const OTHER *h, PIXEL *y,
                       int64_t threads) {
    threads = threads_for(t->B * t->N * t->D, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < t->B * t->N; i++) {
        const PIXEL *row = x + i * t->D;
        const OTHER *side = h + i * t->D;
        const float *gate = t->gate + i / t->N * t->D;
        PIXEL *restrict out = y + i * t->D;
        for (int64_t c = 0; c < t->D; c++)
            out[c] = STORE(LOAD(row[c]) + gate[c] * LOAD_OTHER(side[c]));
    }
    return 0;
}

/* dh (B, N, D) and the gradient of gate (B, D). Returns 0, or 1 where memory is short. */
int NAME(gate_backward)(const Tokens *t, const OTHER *h, const PIXEL *dy, OTHER *dh, float *d_gate,
                        int64_t threads) {
    threads = threads_for(t->B * t->N * t->D, threads);
    int64_t units = t->B * parts_of(t);
    float *sums = calloc(units * t->D, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t u = 0; u < units; u++) {
        Unit w = unit_of(t, u);
        const float *gate = t->gate + w.b * t->D;
        float *restrict of_gate = sums + u * t->D;
        for (int64_t i = w.first; i < w.last; i++) {
            const OTHER *side = h + i * t->D;
            const PIXEL *up = dy + i * t->D;
            OTHER *restrict out = dh + i * t->D;
            for (int64_t c = 0; c < t->D; c++) {
                float d = LOAD(up[c]);
                of_gate[c] += d * LOAD_OTHER(side[c]);
                out[c] = STORE_OTHER(gate[c] * d);
            }
        }
    }
    add_units(t, sums, t->D, d_gate);
    free(sums);
    return 0;
}

#endif
