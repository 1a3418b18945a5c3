/* Gradients of the kernels of 3 x 3 convolutions by Winograd's way: see winograd.c.
 *
 *   dw = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G
 *
 * Sums run in float32, in an order that does not depend on the number of threads.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "winograd.h"

#define DEEP 128 /* tiles to a block */
#define DIRECT 256 /* tiles, up to which the sums of all of them are one block's */

#define THIS "winograd_weights.c"
#include "each_product.h"

#else

#include "winograd.h"

/* Row i of B^T d B, d's pixels at `at` */
static inline void NAME(spread_row)(const PIXEL **at, int64_t c, int i, vec v[4]) {
    const int one[] = {0, 1, 2, 1}, other[] = {2, 2, 1, 3};
    for (int j = 0; j < 4; j++) {
        vec a = LOADS(at[4 * one[i] + j] + c), z = LOADS(at[4 * other[i] + j] + c);
        v[j] = i == 1 ? a + z : a - z;
    }
    SPREAD(v, 1);
}

/* Row i of A dy A^T, dy's pixels at `at` */
static inline void NAME(widened_row)(const PIXEL **at, int64_t c, int i, vec v[4]) {
    vec d[2];
    for (int j = 0; j < 2; j++) {
        vec a = i < 3 ? LOADS(at[j] + c) : (vec){0}, z = i > 0 ? LOADS(at[2 + j] + c) : (vec){0};
        d[j] = i == 1 ? a + z : a - z;
    }
    v[0] = d[0], v[1] = d[0] + d[1], v[2] = d[0] - d[1], v[3] = -d[1];
}

/* dw of one input channel and a vector of outputs, I kernels apart, of sums[xi], `step` apart */
static void NAME(settle)(const Shape *s, const float *sums, int64_t step, float *dw) {
    vec u[16], half[12], k[TAPS];
    for (int xi = 0; xi < 16; xi++) u[xi] = idle(s, xi) ? (vec){0} : get(sums + xi * step);
    for (int j = 0; j < 4; j++) {
        vec sum = (u[4 + j] + u[8 + j]) * 0.5f;
        half[j] = u[j] + sum, half[4 + j] = (u[4 + j] - u[8 + j]) * 0.5f, half[8 + j] = sum + u[12 + j];
    }
    for (int j = 0; j < 3; j++) {
        vec *h = half + 4 * j, sum = (h[1] + h[2]) * 0.5f;
        k[3 * j] = h[0] + sum, k[3 * j + 1] = (h[1] - h[2]) * 0.5f, k[3 * j + 2] = sum + h[3];
    }
#if LANES == 8
    turn(k);
    for (int l = 0; l < LANES; l++) {
        put(dw + l * s->I * TAPS, k[l]);
        dw[l * s->I * TAPS + TAPS - 1] = k[TAPS - 1][l];
    }
#else
    for (int l = 0; l < LANES; l++)
        for (int n = 0; n < TAPS; n++) dw[l * s->I * TAPS + n] = k[n][l];
#endif
}

/* Of `deep` tiles from `first` on, row i: V[j][c / 16][k][c % 16][P], D[j][panel][k][o][P] */
static inline __attribute__((always_inline)) void NAME(row)(
    const Shape *s, Grid g, const PIXEL *x, const PIXEL *dy, int64_t first, int64_t deep,
    int i, int64_t o0, int64_t o1, const PIXEL *none, PIXEL *V, PIXEL *D, float *db) {
    for (int64_t k = 0; k < deep / PAIR; k++) {
        const PIXEL *in[PAIR][16], *out[PAIR][4];
        for (int p = 0; p < PAIR; p++) {
            NAME(points)(s, g, s->I, x, first + k * PAIR + p, -1, 4, s->up, none, in[p]);
            NAME(points)(s, g, s->O, dy, first + k * PAIR + p, 0, 2, 0, none, out[p]);
        }
        for (int64_t c = 0; c < s->I; c += LANES) {
            vec v[PAIR][4];
            for (int p = 0; p < PAIR; p++) NAME(spread_row)(in[p], c, i, v[p]);
            for (int j = 0; j < 4; j++) {
                vec both[] = {v[0][j], v[PAIR - 1][j]};
                PIXEL *to = V + j * (deep * s->I + ASIDE) + c / 16 * 16 * deep;
                NAME(beside)(to + (k * 16 + c % 16) * PAIR, both);
            }
        }
        for (int64_t c = o0; c < o1; c += LANES) {
            int64_t start = c / WIDE * WIDE, width = least(WIDE, s->O - start);
            vec v[PAIR][4];
            for (int p = 0; p < PAIR; p++) NAME(widened_row)(out[p], c, i, v[p]);
            if (i == 1 && db) /* there the second is the sum of the tile's four */
                for (int p = 0; p < PAIR; p++) put(db + c, get(db + c) + v[p][1]);
            for (int j = 0; j < 4; j++) {
                vec both[] = {v[0][j], v[PAIR - 1][j]};
                PIXEL *to = D + j * (deep * s->O + ASIDE) + start * deep;
                NAME(beside)(to + (k * width + c - start) * PAIR, both);
            }
        }
    }
}

/* The same with i known to the compiler */
static void NAME(rows)(const Shape *s, Grid g, const PIXEL *x, const PIXEL *dy, int64_t first,
                       int64_t deep, int64_t i, int64_t o0, int64_t o1, const PIXEL *none,
                       PIXEL *V, PIXEL *D, float *db) {
    switch (i) {
        case 0: NAME(row)(s, g, x, dy, first, deep, 0, o0, o1, none, V, D, db); break;
        case 1: NAME(row)(s, g, x, dy, first, deep, 1, o0, o1, none, V, D, db); break;
        case 2: NAME(row)(s, g, x, dy, first, deep, 2, o0, o1, none, V, D, db); break;
        default: NAME(row)(s, g, x, dy, first, deep, 3, o0, o1, none, V, D, db);
    }
}

/* See winograd_weights: of few tiles, whose kernels' gradients are many more than they; the sums
 * of 16 inputs and WIDE outputs become theirs without seeing memory. */
static int NAME(weights_of_few)(const Shape *s, Grid g, const PIXEL *x, const PIXEL *dy, float *dw,
                                float *db, int64_t threads) {
    const int64_t deep = (g.all + PAIR - 1) / PAIR * PAIR, groups = s->I / 16;
    const int64_t v_next = deep * s->I + ASIDE, d_next = deep * s->O + ASIDE, step = 16 * WIDE;
    PIXEL *V = aligned_alloc(64, 16 * v_next * sizeof(PIXEL));
    PIXEL *D = aligned_alloc(64, 16 * d_next * sizeof(PIXEL));
    PIXEL *none = calloc(s->I + s->O, sizeof(PIXEL));
    int failed = !(V && D && none);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < 4; i++)
            if (!failed && !idle(s, 4 * i))
                NAME(rows)(s, g, x, dy, 0, deep, i, 0, s->O, none, V + 4 * i * v_next,
                           D + 4 * i * d_next, db);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < (s->O + WIDE - 1) / WIDE * groups; piece++) {
            float M[16 * 16 * WIDE] __attribute__((aligned(64)));
            int64_t o = piece / groups * WIDE, c = piece % groups * 16;
            int64_t width = least(WIDE, s->O - o);
            for (int64_t xi = 0; xi < 16 && !failed; xi++)
                if (!idle(s, xi))
                    NAME(sixteen)(V + xi * v_next + c * deep, D + xi * d_next + o * deep, width,
                                  deep / PAIR, M + xi * step, WIDE, 0);
            for (int64_t n = 0; n < 16 * width && !failed; n += LANES) {
                int64_t r = n / width, l = n % width;
                NAME(settle)(s, M + r * WIDE + l, step, dw + ((o + l) * s->I + c + r) * TAPS);
            }
        }
    }
    free(V);
    free(D);
    free(none);
    return failed;
}

/* dw (O, I, 3, 3), and db (O) or NULL, of x and dy (B, H, W, O). 0, or 1 where memory is short. */
int NAME(winograd_weights)(const Shape *s, const PIXEL *x, const PIXEL *dy, float *dw, float *db,
                           int64_t threads) {
    Grid g = grid_of(s);
    if (db) memset(db, 0, s->O * sizeof(float));
    if (g.all <= DIRECT) return NAME(weights_of_few)(s, g, x, dy, dw, db, threads);
    const int64_t v_next = DEEP * s->I + ASIDE, d_next = DEEP * s->O + ASIDE;
    const int64_t next = s->I * s->O + ASIDE, panels = (s->O + WIDE - 1) / WIDE;
    const int64_t parts = least(panels, s->up ? threads : (threads + 3) / 4); /* of O */
    float *sums = aligned_alloc(64, 16 * next * sizeof(float));
    int failed = !sums;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < 4 * parts; unit++) {
        int64_t i = unit % 4, part = unit / 4;
        if (idle(s, 4 * i)) continue;
        int64_t o0 = part * panels / parts * WIDE;
        int64_t o1 = least((part + 1) * panels / parts * WIDE, s->O);
        PIXEL *V = aligned_alloc(64, 4 * v_next * sizeof(PIXEL));
        PIXEL *D = aligned_alloc(64, 4 * d_next * sizeof(PIXEL));
        PIXEL *none = calloc(s->I + s->O, sizeof(PIXEL));
        int ready = V && D && none && sums;
        if (!ready) failed = 1;
        for (int64_t first = 0; first < g.all && ready; first += DEEP) {
            NAME(rows)(s, g, x, dy, first, DEEP, i, o0, o1, none, V, D, db);
            int64_t depth = (least(DEEP, g.all - first) + PAIR - 1) / PAIR;
            for (int64_t j = 0; j < 4; j++)
                for (int64_t o = o0; o < o1 && !idle(s, j); o += WIDE) {
                    int64_t width = least(WIDE, s->O - o);
                    for (int64_t c = 0; c < s->I; c += 16)
                        NAME(sixteen)(V + j * v_next + c * DEEP, D + j * d_next + o * DEEP, width,
                                      depth, sums + (4 * i + j) * next + c * s->O + o, s->O,
                                      first > 0);
                }
        }
        free(V);
        free(D);
        free(none);
    }
    if (!failed) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t o = 0; o < s->O; o += LANES)
            for (int64_t i = 0; i < s->I; i++)
                NAME(settle)(s, sums + i * s->O + o, next, dw + (o * s->I + i) * TAPS);
    }
    free(sums);
    return failed;
}

#endif
