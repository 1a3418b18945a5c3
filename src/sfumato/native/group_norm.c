/* Group norm, a modulation and SiLU in one go, forward and backward, for images whose channels lie
 * side by side: x[b][p][c] of B images, P positions and C channels in G groups.
 *
 *   mean, var   of x + add over the positions and channels of a group
 *   n = (x + add - mean) rstd gamma + beta,       rstd = 1 / sqrt(var + eps)
 *   z = n (1 + scale) + shift,   y = z sigmoid(z) or z
 *
 * For one image and channel z = a x + d, so that every pass over the pixels is one line; all else is
 * done once for (b, c). An image's groups are summed by one thread in the order of the positions, so
 * no result depends on the number of threads. A unit of work is some groups of an image.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "common.h"

#define BLOCK 64 /* positions that are summed in float before the sum goes into a double */

typedef struct {
    const float *gamma, *beta;        /* (C) */
    const float *add, *scale, *shift; /* (B, C), or NULL */
    float *mean, *rstd;               /* (B, G) */
    int64_t B, P, C, G;
    double eps;
    int silu;
} Norm;

/* The channels of unit number u, whose groups are first .. last - 1 of image b. */
typedef struct {
    int64_t b, first, last, start, count, each;
} Unit;

static Unit unit_of(const Norm *n, int64_t u, int64_t parts) {
    Unit w;
    w.b = u / parts;
    w.first = (u % parts) * n->G / parts;
    w.last = (u % parts + 1) * n->G / parts;
    w.each = n->C / n->G;
    w.start = w.first * w.each;
    w.count = (w.last - w.first) * w.each;
    return w;
}

/* a and d of z = a x + d, from the sums of a unit's groups */
static void affine(const Norm *n, Unit w, float *a, float *d) {
    for (int64_t i = 0; i < w.count; i++) {
        int64_t c = w.start + i, at = w.b * n->C + c, g = w.b * n->G + c / w.each;
        float factor = 1.0f + (n->scale ? n->scale[at] : 0.0f);
        float over = (n->add ? n->add[at] : 0.0f) - n->mean[g];
        a[i] = n->rstd[g] * n->gamma[c] * factor;
        d[i] = over * a[i] + n->beta[c] * factor + (n->shift ? n->shift[at] : 0.0f);
    }
}

/* Parts an image's groups are cut into: enough for the threads, of 32 channels at the least. */
static int64_t parts_for(const Norm *n, int64_t threads) {
    int64_t parts = (threads + n->B - 1) / n->B, most = n->C / 32;
    if (n->B >= 2 * threads) parts = 1;
    if (parts > most) parts = most;
    if (parts > n->G) parts = n->G;
    return parts < 1 ? 1 : parts;
}

#define EXACT (sizeof(PIXEL) == sizeof(float)) /* what is stored comes back as it was */
#define THIS "group_norm.c"
#include "each.h"

#else

/* Mean and rstd of a unit's groups. The values of the first position are taken off before anything
 * is squared, so that a large mean does not cancel. */
static void NAME(moments)(const Norm *n, Unit w, const PIXEL *x, float *from, double *sum,
                          double *square, float *block) {
    float *s = block, *q = block + w.count;
    for (int64_t i = 0; i < w.count; i++) {
        from[i] = LOAD(x[w.b * n->P * n->C + w.start + i]);
        sum[i] = square[i] = 0.0;
    }
    for (int64_t p0 = 0; p0 < n->P; p0 += BLOCK) {
        int64_t p1 = p0 + BLOCK < n->P ? p0 + BLOCK : n->P;
        for (int64_t i = 0; i < w.count; i++) s[i] = q[i] = 0.0f;
        for (int64_t p = p0; p < p1; p++) {
            const PIXEL *row = x + (w.b * n->P + p) * n->C + w.start;
            for (int64_t i = 0; i < w.count; i++) {
                float v = LOAD(row[i]) - from[i];
                s[i] += v;
                q[i] += v * v;
            }
        }
        for (int64_t i = 0; i < w.count; i++) sum[i] += s[i], square[i] += q[i];
    }
    double size = (double)n->P * w.each;
    for (int64_t g = w.first; g < w.last; g++) {
        double mean = 0.0, var = 0.0;
        int64_t start = (g - w.first) * w.each, end = start + w.each;
        for (int64_t i = start; i < end; i++) {
            double own = from[i] + (n->add ? n->add[w.b * n->C + w.start + i] : 0.0f);
            mean += sum[i] + own * n->P;
        }
        mean /= size;
        for (int64_t i = start; i < end; i++) { /* of one channel about the group's mean */
            double own = from[i] + (n->add ? n->add[w.b * n->C + w.start + i] : 0.0f) - mean;
            var += square[i] + own * (2.0 * sum[i] + own * n->P);
        }
        var /= size;
        n->mean[w.b * n->G + g] = (float)mean;
        n->rstd[w.b * n->G + g] = (float)(1.0 / sqrt((var > 0.0 ? var : 0.0) + n->eps));
    }
}

/* y (B, P, C), mean and rstd (B, G) of x (B, P, C). Returns 0, or 1 where memory is short. */
int NAME(norm_forward)(const Norm *n, const PIXEL *x, PIXEL *y, int64_t threads) {
    threads = threads_for(n->B * n->P * n->C, threads);
    int64_t parts = parts_for(n, threads);
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t u = 0; u < n->B * parts; u++) {
        Unit w = unit_of(n, u, parts);
        char *room = malloc(w.count * (2 * sizeof(double) + 5 * sizeof(float)));
        if (!room) { failed = 1; continue; }
        double *sum = (double *)room, *square = sum + w.count;
        float *a = (float *)(square + w.count), *d = a + w.count, *block = d + w.count;
        NAME(moments)(n, w, x, a, sum, square, block);
        affine(n, w, a, d);
        for (int64_t p = 0; p < n->P; p++) {
            const PIXEL *row = x + (w.b * n->P + p) * n->C + w.start;
            PIXEL *out = y + (w.b * n->P + p) * n->C + w.start;
            if (n->silu)
                for (int64_t i = 0; i < w.count; i++) {
                    float z = a[i] * LOAD(row[i]) + d[i];
                    out[i] = STORE(z * sigmoid(z));
                }
            else
                for (int64_t i = 0; i < w.count; i++) out[i] = STORE(a[i] * LOAD(row[i]) + d[i]);
        }
        free(room);
    }
    return failed;
}

/* dz of one value */
static inline float NAME(through)(const Norm *n, float a, float d, float x, float dy) {
    if (!n->silu) return dy;
    float z = a * x + d, s = sigmoid(z);
    return dy * s * (1.0f + z * (1.0f - s));
}

/* dx (B, P, C), and the gradients of gamma and beta (C); of add, scale and shift (B, C), or NULL.
 * one_dz and one_dzx, (B, C), take the sums of dz and of dz (x + add - mean) rstd, of which all of
 * them are made. Returns 0, or 1 where memory is short. */
int NAME(norm_backward)(const Norm *n, const PIXEL *x, const PIXEL *dy, PIXEL *dx, float *d_gamma,
                        float *d_beta, float *d_add, float *d_scale, float *d_shift, float *one_dz,
                        float *one_dzx, int64_t threads) {
    threads = threads_for(n->B * n->P * n->C, threads);
    int64_t parts = parts_for(n, threads);
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t u = 0; u < n->B * parts; u++) {
        Unit w = unit_of(n, u, parts);
        char *room = malloc(w.count * (2 * sizeof(double) + 7 * sizeof(float)));
        if (!room) { failed = 1; continue; }
        double *one = (double *)room, *two = one + w.count;
        float *a = (float *)(two + w.count), *d = a + w.count, *s = d + w.count, *q = s + w.count;
        float *k2 = q + w.count, *k3 = k2 + w.count, *m = k3 + w.count;
        affine(n, w, a, d);
        /* x - m and not x, so that the sum of dz x does not cancel against that of dz */
        for (int64_t i = 0; i < w.count; i++) {
            int64_t c = w.start + i, at = w.b * n->C + c;
            m[i] = n->mean[w.b * n->G + c / w.each] - (n->add ? n->add[at] : 0.0f);
            one[i] = two[i] = 0.0;
        }
        for (int64_t p0 = 0; p0 < n->P; p0 += BLOCK) {
            int64_t p1 = p0 + BLOCK < n->P ? p0 + BLOCK : n->P;
            for (int64_t i = 0; i < w.count; i++) s[i] = q[i] = 0.0f;
            for (int64_t p = p0; p < p1; p++) {
                int64_t at = (w.b * n->P + p) * n->C + w.start;
                const PIXEL *row = x + at, *up = dy + at;
                PIXEL *out = dx + at;
                for (int64_t i = 0; i < w.count; i++) {
                    float v = LOAD(row[i]), dz = NAME(through)(n, a[i], d[i], v, LOAD(up[i]));
                    if (EXACT) out[i] = STORE(dz); /* or it is made once more below */
                    s[i] += dz;
                    q[i] += dz * (v - m[i]);
                }
            }
            for (int64_t i = 0; i < w.count; i++) one[i] += s[i], two[i] += q[i];
        }
        double size = (double)n->P * w.each;
        for (int64_t g = w.first; g < w.last; g++) {
            double rstd = n->rstd[w.b * n->G + g], m1 = 0.0, m2 = 0.0;
            int64_t from = (g - w.first) * w.each, to = from + w.each;
            for (int64_t i = from; i < to; i++) {
                double weight = (double)a[i] / rstd; /* (1 + scale) gamma */
                m1 += weight * one[i], m2 += weight * two[i] * rstd;
            }
            m1 /= size, m2 /= size;
            for (int64_t i = from; i < to; i++) {
                int64_t at = w.b * n->C + w.start + i;
                k2[i] = (float)(-rstd * rstd * m2);
                k3[i] = (float)(-rstd * m1);
                one_dz[at] = (float)one[i];
                one_dzx[at] = (float)(two[i] * rstd);
                one[i] = 0.0;
            }
        }
        for (int64_t p0 = 0; p0 < n->P; p0 += BLOCK) {
            int64_t p1 = p0 + BLOCK < n->P ? p0 + BLOCK : n->P;
            for (int64_t i = 0; i < w.count; i++) s[i] = 0.0f;
            for (int64_t p = p0; p < p1; p++) {
                int64_t at = (w.b * n->P + p) * n->C + w.start;
                const PIXEL *row = x + at, *up = dy + at;
                PIXEL *out = dx + at;
                for (int64_t i = 0; i < w.count; i++) {
                    float v = LOAD(row[i]);
                    float dz = EXACT ? LOAD(out[i]) : NAME(through)(n, a[i], d[i], v, LOAD(up[i]));
                    float value = a[i] * dz + k2[i] * (v - m[i]) + k3[i];
                    s[i] += value;
                    out[i] = STORE(value);
                }
            }
            for (int64_t i = 0; i < w.count; i++) one[i] += s[i];
        }
        if (d_add)
            for (int64_t i = 0; i < w.count; i++) d_add[w.b * n->C + w.start + i] = (float)one[i];
        free(room);
    }
    for (int64_t c = 0; c < n->C; c++) d_gamma[c] = d_beta[c] = 0.0f;
    for (int64_t b = 0; b < n->B; b++)
        for (int64_t c = 0; c < n->C; c++) {
            int64_t at = b * n->C + c;
            float factor = 1.0f + (n->scale ? n->scale[at] : 0.0f);
            d_gamma[c] += factor * one_dzx[at];
            d_beta[c] += factor * one_dz[at];
            if (d_scale) d_scale[at] = n->gamma[c] * one_dzx[at] + n->beta[c] * one_dz[at];
            if (d_shift) d_shift[at] = one_dz[at];
        }
    return failed;
}

#endif
