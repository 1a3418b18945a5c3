/* A norm of each pixel's channels, a modulation and SiLU in one go, forward and backward, for images
 * whose channels lie side by side: x[b][p][c] of B images, P positions and C channels.
 *
 *   r = sqrt(C) / max(|x|, 1e-12) of each pixel,   n = x r gain
 *   z = n (1 + scale) + shift,                     y = z sigmoid(z) or z
 *
 * Gradients: with d = dz (1 + scale) gain,   dx = r (d - x (x . d) / |x|^2),
 * and the sums over a channel's pixels of dz x r and of dz make those of gain, scale and shift.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "common.h"

#define LEAST 1e-12f
#define FEW 32 /* pixels whose sums are kept in float before they join those in double */

typedef struct {
    const float *gain;          /* (C) */
    const float *scale, *shift; /* (B, C), or NULL */
    int64_t B, P, C;
    int silu;
} RMS;

static float size_of(float squares) {
    float size = sqrtf(squares);
    return size > LEAST ? size : LEAST;
}

#define THIS "rms_norm.c"
#include "each.h"

#else

static inline float NAME(squares)(const PIXEL *x, int64_t count) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < count; c++) sum += LOAD(x[c]) * LOAD(x[c]);
    return sum;
}

/* a and d of z = a r x + d, for the channels of image b */
static void NAME(line)(const RMS *n, int64_t b, float *a, float *d) {
    for (int64_t c = 0; c < n->C; c++) {
        a[c] = n->gain[c] * (n->scale ? 1.0f + n->scale[b * n->C + c] : 1.0f);
        d[c] = n->shift ? n->shift[b * n->C + c] : 0.0f;
    }
}

/* y (B, P, C). Returns 0, or 1 where memory is short. */
int NAME(rms_forward)(const RMS *n, const PIXEL *x, PIXEL *y, int64_t threads) {
    int failed = 0;
    float root = sqrtf((float)n->C);
    threads = threads_for(n->B * n->P * n->C, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < n->B; b++) {
        float *a = malloc(2 * n->C * sizeof(float));
        if (!a) { failed = 1; continue; }
        float *d = a + n->C;
        NAME(line)(n, b, a, d);
        for (int64_t p = 0; p < n->P; p++) {
            const PIXEL *row = x + (b * n->P + p) * n->C;
            PIXEL *out = y + (b * n->P + p) * n->C;
            float r = root / size_of(NAME(squares)(row, n->C));
            if (n->silu)
                for (int64_t c = 0; c < n->C; c++) {
                    float z = a[c] * r * LOAD(row[c]) + d[c];
                    out[c] = STORE(z * sigmoid(z));
                }
            else
                for (int64_t c = 0; c < n->C; c++) out[c] = STORE(a[c] * r * LOAD(row[c]) + d[c]);
        }
        free(a);
    }
    return failed;
}

/* dx and the gradients g with regard to z of one pixel; n_sum and z_sum gain its g x r and g. */
static inline void NAME(pixel_back)(const RMS *n, const PIXEL *restrict row,
                                    const PIXEL *restrict up, PIXEL *restrict out,
                                    const float *restrict a, const float *restrict d,
                                    float *restrict g, float *restrict n_sum,
                                    float *restrict z_sum) {
    float size = size_of(NAME(squares)(row, n->C)), r = sqrtf((float)n->C) / size, along = 0.0f;
    if (n->silu) {
#pragma omp simd reduction(+ : along)
        for (int64_t c = 0; c < n->C; c++) {
            float m = r * LOAD(row[c]), z = a[c] * m + d[c], s = sigmoid(z);
            float of_z = LOAD(up[c]) * s * (1.0f + z * (1.0f - s));
            z_sum[c] += of_z;
            n_sum[c] += of_z * m;
            g[c] = of_z * a[c];
            along += g[c] * LOAD(row[c]);
        }
    } else {
#pragma omp simd reduction(+ : along)
        for (int64_t c = 0; c < n->C; c++) {
            z_sum[c] += LOAD(up[c]);
            n_sum[c] += LOAD(up[c]) * (r * LOAD(row[c]));
            g[c] = LOAD(up[c]) * a[c];
            along += g[c] * LOAD(row[c]);
        }
    }
    along = size > LEAST ? along / (size * size) : 0.0f;
#pragma omp simd
    for (int64_t c = 0; c < n->C; c++) out[c] = STORE(r * (g[c] - LOAD(row[c]) * along));
}

/* dx (B, P, C); of_n and of_z (B, C): the sums over pixels of dz x r and of dz. */
int NAME(rms_backward)(const RMS *n, const PIXEL *x, const PIXEL *dy, PIXEL *dx, float *of_n,
                       float *of_z, int64_t threads) {
    int failed = 0;
    threads = threads_for(n->B * n->P * n->C, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < n->B; b++) {
        float *a = malloc(5 * n->C * sizeof(float));
        double *sums = calloc(2 * n->C, sizeof(double));
        if (a && sums) {
            float *d = a + n->C, *g = d + n->C, *few = g + n->C; /* sums over FEW pixels */
            NAME(line)(n, b, a, d);
            for (int64_t first = 0; first < n->P; first += FEW) {
                int64_t end = first + FEW < n->P ? first + FEW : n->P;
                memset(few, 0, 2 * n->C * sizeof(float));
                for (int64_t p = first; p < end; p++) {
                    int64_t at = (b * n->P + p) * n->C;
                    NAME(pixel_back)(n, x + at, dy + at, dx + at, a, d, g, few, few + n->C);
                }
                for (int64_t c = 0; c < 2 * n->C; c++) sums[c] += few[c];
            }
            for (int64_t c = 0; c < n->C; c++) {
                of_n[b * n->C + c] = (float)sums[c];
                of_z[b * n->C + c] = (float)sums[n->C + c];
            }
        } else {
            failed = 1;
        }
        free(sums);
        free(a);
    }
    return failed;
}

#endif
