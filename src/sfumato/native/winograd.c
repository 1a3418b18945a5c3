/* 3 x 3 convolutions, step 1, a border of one zero, by Winograd's minimal filtering F(2 x 2, 3 x 3):
 * 16 products where 36 stand in the definition (Lavin and Gray 2016, section 4.1).
 *
 *   y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A     of a tile d of 4 x 4, giving 2 x 2
 *   dg = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G
 *
 * x[b][row][column][c]: channels side by side. The gradient with regard to x is the same convolution
 * of dy by the kernels turned about, their channels exchanged. Sums run in float32, in an order that
 * does not depend on the number of threads. Channels come in sixteens.
 *
 * U[panel][xi][k][o][P] holds the transformed kernels for a product's lanes: a panel is up to WIDE
 * output channels, P = 2 input channels lie beside each other where one instruction takes the sum of
 * two products (bfloat16), or 1.
 *
 * Where x's pixels stand for four each, d1 = d2 in every tile, so that one of four in each direction
 * comes to nothing, and 9 products do; likewise where four of y's are added.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "vectors.h"

#define TILES 48 /* to a block, forward, at most: a multiple of ROWS */
#define DEEP 128 /* tiles to a block, backward */
#define ASIDE 64  /* values that keep the 16 matrices from falling on the same lines of a cache */

/* up: x is half as high and wide, each pixel standing for four; down: y's pixels are sums of four. */
typedef struct { int64_t B, H, W, I, O, up, down; } Shape;
typedef struct { int64_t across, each, all; } Grid; /* tiles to a row, to an image, in all */

static inline Grid grid_of(const Shape *s) {
    Grid g;
    g.across = (s->W + 1) / 2;
    g.each = g.across * ((s->H + 1) / 2);
    g.all = g.each * s->B;
    return g;
}

/* Tiles to a block, forward: as many to each thread, in ROWS, where there are few */
static inline int64_t block_of(Grid g, int64_t threads) {
    int64_t turns = threads * ((g.all + TILES * threads - 1) / (TILES * threads));
    int64_t block = (g.all + turns - 1) / turns;
    return (block + ROWS - 1) / ROWS * ROWS;
}

/* Whether product number xi comes to nothing */
static inline int idle(const Shape *s, int64_t xi) {
    return (s->up || s->down) && (xi / 4 == 2 || xi % 4 == 2);
}

/* B^T of four values a step apart */
#define SPREAD(d, step)                                                             \
    do {                                                                            \
        vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];            \
        d[0] = d0 - d2, d[step] = d1 + d2, d[2 * step] = d2 - d1, d[3 * step] = d1 - d3; \
    } while (0)

/* G of three values; the result is four */
static inline void kernel_side(const vec *g, int64_t from, vec *u, int64_t to) {
    vec half = (g[0] + g[2 * from]) * 0.5f, middle = g[from] * 0.5f;
    u[0] = g[0], u[to] = half + middle, u[2 * to] = half - middle, u[3 * to] = g[2 * from];
}

#define THIS "winograd.c"
#include "each_product.h"

#else

/* Where the `side` x `side` pixels from (edge, edge) of tile t's own 2 x 2 on begin; `none`, which
 * holds zeros, for those outside the image and for tiles past the last. half: see `up` */
static inline void NAME(points)(const Shape *s, Grid g, int64_t channels, const PIXEL *x, int64_t t,
                                int edge, int side, int half, const PIXEL *none,
                                const PIXEL **at) {
    int64_t high = s->H >> half, wide = s->W >> half;
    int64_t b = t / g.each, row = t % g.each / g.across * 2 + edge, column = t % g.across * 2 + edge;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            int64_t y = row + i, z = column + j;
            int inside = t < g.all && y >= 0 && y < s->H && z >= 0 && z < s->W;
            at[side * i + j] =
                inside ? x + ((b * high + (y >> half)) * wide + (z >> half)) * channels : none;
        }
}

/* V[xi][t][c] of `count` tiles from `first` on; rows past the last tile are zero */
static void NAME(spread)(const Shape *s, Grid g, const PIXEL *x, int64_t first, int64_t count,
                         const PIXEL *none, PIXEL *V) {
    for (int64_t t = 0; t < count; t++) {
        const PIXEL *at[16];
        NAME(points)(s, g, s->I, x, first + t, -1, 4, s->up, none, at);
        for (int64_t c = 0; c < s->I; c += LANES) {
            vec d[16];
            for (int n = 0; n < 16; n++) d[n] = LOADS(at[n] + c);
            for (int j = 0; j < 4; j++) SPREAD((d + j), 4);
            for (int i = 0; i < 4; i++) SPREAD((d + 4 * i), 1);
            const int64_t next = TILES * s->I + ASIDE;
            for (int xi = 0; xi < 16; xi++) STORES(V + xi * next + t * s->I + c, d[xi]);
        }
    }
}

/* y's 2 x 2 pixels of each tile from M[xi][t][WIDE], `width` channels from o on */
static void NAME(gather)(const Shape *s, Grid g, const float *M, const float *bias, int64_t first,
                         int64_t last, int64_t o, int64_t width, PIXEL *y) {
    for (int64_t t = first; t < last; t++) {
        int64_t b = t / g.each, row = t % g.each / g.across * 2, column = t % g.across * 2;
        for (int64_t c = 0; c < width; c += LANES) {
            vec half[8], add = bias ? get(bias + o + c) : (vec){0};
            for (int j = 0; j < 4; j++) {
                const int64_t next = TILES * WIDE + ASIDE, down = 4 * next;
                const float *m = M + j * next + (t - first) * WIDE + c;
                vec m1 = get(m + down), m2 = get(m + 2 * down);
                half[j] = get(m) + m1 + m2;
                half[4 + j] = m1 - m2 - get(m + 3 * down);
            }
            if (s->down) {
                const vec *h = half, *l = half + 4;
                vec sum = h[0] + 2.0f * h[1] - h[3] + (l[0] + 2.0f * l[1] - l[3]);
                STORES(y + t * s->O + o + c, sum); /* its bias would have been added four times */
                continue;
            }
            for (int i = 0; i < 2 && row + i < s->H; i++) {
                const vec *h = half + 4 * i;
                PIXEL *out = y + ((b * s->H + row + i) * s->W + column) * s->O + o + c;
                STORES(out, h[0] + h[1] + h[2] + add);
                if (column + 1 < s->W) STORES(out + s->O, h[1] - h[2] - h[3] + add);
            }
        }
    }
}

/* y (B, H, W, O) of x (B, H, W, I), kernels U, bias (O) or NULL where down. 0, or 1 where memory is short. */
int NAME(winograd_forward)(const Shape *s, const PIXEL *x, const PIXEL *U, const float *bias,
                           PIXEL *y, int64_t threads) {
    Grid g = grid_of(s);
    int failed = 0;
    int64_t block = block_of(g, threads);
#pragma omp parallel num_threads(threads)
    {
        PIXEL *V = aligned_alloc(64, 16 * (TILES * s->I + ASIDE) * sizeof(PIXEL));
        float *M = aligned_alloc(64, 16 * (TILES * WIDE + ASIDE) * sizeof(float));
        PIXEL *none = calloc(s->I, sizeof(PIXEL));
        int ready = V && M && none;
        if (!ready) failed = 1;
        if (ready) memset(M, 0, 16 * (TILES * WIDE + ASIDE) * sizeof(float)); /* the idle ones */
#pragma omp for schedule(static)
        for (int64_t first = 0; first < g.all; first += block) {
            if (!ready) continue;
            NAME(spread)(s, g, x, first, block, none, V);
            int64_t rows = least(block, g.all - first);
            for (int64_t o = 0; o < s->O; o += WIDE) {
                int64_t width = least(WIDE, s->O - o);
                NAME(Product) *product = NAME(products)[width / LANES - 1];
                for (int64_t xi = 0; xi < 16; xi++)
                    for (int64_t t = 0; t < rows && !idle(s, xi); t += ROWS)
                        product(V + xi * (TILES * s->I + ASIDE) + t * s->I, PAIR, s->I,
                                      U + (o * 16 + xi * width) * s->I, width * PAIR, s->I / PAIR,
                                      M + xi * (TILES * WIDE + ASIDE) + t * WIDE, WIDE, 0);
                NAME(gather)(s, g, M, bias, first, first + rows, o, width, y);
            }
        }
        free(V);
        free(M);
        free(none);
    }
    return failed;
}

/* U of kernels of which w holds O, `out` values apart, for each of I channels, `in` apart */
static void NAME(kernels)(const Shape *s, const float *w, PIXEL *U, int64_t out, int64_t in,
                          int turned, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t group = 0; group < s->O / LANES; group++) {
        int64_t o = group * LANES, start = o / WIDE * WIDE, width = least(WIDE, s->O - start);
        for (int64_t i = 0; i < s->I; i += PAIR) {
            vec u[PAIR][16];
            for (int p = 0; p < PAIR; p++) {
                vec k[9], half[12];
                const float *from = w + o * out + (i + p) * in;
                for (int n = 0; n < 9; n++)
                    for (int l = 0; l < LANES; l++) k[n][l] = from[l * out + (turned ? 8 - n : n)];
                for (int j = 0; j < 3; j++) kernel_side(k + j, 3, half + j, 3);
                for (int j = 0; j < 4; j++) kernel_side(half + 3 * j, 1, u[p] + 4 * j, 1);
            }
            for (int xi = 0; xi < 16; xi++) {
                vec both[] = {u[0][xi], u[PAIR - 1][xi]};
                PIXEL *to = U + (start * 16 + xi * width) * s->I + (i * width + (o - start) * PAIR);
                NAME(beside)(to, both);
            }
        }
    }
}

/* U of the kernels w (O, I, 3, 3) */
int NAME(winograd_kernels)(const Shape *s, const float *w, PIXEL *U, int64_t threads) {
    NAME(kernels)(s, w, U, s->I * 9, 9, 0, threads);
    return 0;
}

/* U of the convolution that gives the gradient of x: the kernels w (I, O, 3, 3) turned about, from
 * the I channels of dy to the O of x */
int NAME(winograd_kernels_turned)(const Shape *s, const float *w, PIXEL *U, int64_t threads) {
    NAME(kernels)(s, w, U, 9, s->O * 9, 1, threads);
    return 0;
}

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

/* dw (O, I, 3, 3) of sums[xi][i][o] */
static void NAME(settle)(const Shape *s, const float *sums, float *dw, int64_t o, int64_t i) {
    const int64_t step = s->I * s->O + ASIDE;
    vec u[16], half[12], k[9];
    for (int xi = 0; xi < 16; xi++)
        u[xi] = idle(s, xi) ? (vec){0} : get(sums + xi * step + i * s->O + o);
    for (int j = 0; j < 4; j++) {
        vec sum = (u[4 + j] + u[8 + j]) * 0.5f;
        half[j] = u[j] + sum, half[4 + j] = (u[4 + j] - u[8 + j]) * 0.5f, half[8 + j] = sum + u[12 + j];
    }
    for (int j = 0; j < 3; j++) {
        vec *h = half + 4 * j, sum = (h[1] + h[2]) * 0.5f;
        k[3 * j] = h[0] + sum, k[3 * j + 1] = (h[1] - h[2]) * 0.5f, k[3 * j + 2] = sum + h[3];
    }
    for (int l = 0; l < LANES; l++)
        for (int n = 0; n < 9; n++) dw[((o + l) * s->I + i) * 9 + n] = k[n][l];
}

/* Of DEEP tiles from `first` on, row i: V[j][c / LANES][k][c % LANES][P], D[j][panel][k][o][P] */
static inline __attribute__((always_inline)) void NAME(row)(
    const Shape *s, Grid g, const PIXEL *x, const PIXEL *dy, int64_t first, int i, int64_t o0,
    int64_t o1, const PIXEL *none, PIXEL *V, PIXEL *D, float *db) {
    for (int64_t k = 0; k < DEEP / PAIR; k++) {
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
                NAME(beside)(V + j * (DEEP * s->I + ASIDE) + c * DEEP + k * LANES * PAIR, both);
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
                PIXEL *to = D + j * (DEEP * s->O + ASIDE) + start * DEEP;
                NAME(beside)(to + (k * width + c - start) * PAIR, both);
            }
        }
    }
}

/* The same with i known to the compiler */
static void NAME(rows)(const Shape *s, Grid g, const PIXEL *x, const PIXEL *dy, int64_t first,
                       int64_t i, int64_t o0, int64_t o1, const PIXEL *none, PIXEL *V, PIXEL *D,
                       float *db) {
    switch (i) {
        case 0: NAME(row)(s, g, x, dy, first, 0, o0, o1, none, V, D, db); break;
        case 1: NAME(row)(s, g, x, dy, first, 1, o0, o1, none, V, D, db); break;
        case 2: NAME(row)(s, g, x, dy, first, 2, o0, o1, none, V, D, db); break;
        default: NAME(row)(s, g, x, dy, first, 3, o0, o1, none, V, D, db);
    }
}

/* dw (O, I, 3, 3), and db (O) or NULL, of x and dy (B, H, W, O). 0, or 1 where memory is short. */
int NAME(winograd_weights)(const Shape *s, const PIXEL *x, const PIXEL *dy, float *dw, float *db,
                           int64_t threads) {
    Grid g = grid_of(s);
    if (db) memset(db, 0, s->O * sizeof(float));
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
            NAME(rows)(s, g, x, dy, first, i, o0, o1, none, V, D, db);
            int64_t depth = (least(DEEP, g.all - first) + PAIR - 1) / PAIR;
            for (int64_t j = 0; j < 4; j++)
                for (int64_t o = o0; o < o1 && !idle(s, j); o += WIDE) {
                    int64_t width = least(WIDE, s->O - o);
                    for (int64_t c = 0; c < s->I; c += FEW)
                        NAME(outers)[width / LANES - 1](
                            V + j * v_next + c / LANES * LANES * DEEP + c % LANES * PAIR,
                            LANES * PAIR, PAIR, D + j * d_next + o * DEEP, width * PAIR, depth,
                            sums + (4 * i + j) * next + c * s->O + o, s->O, first > 0);
                }
        }
        free(V);
        free(D);
        free(none);
    }
    if (!failed) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t o = 0; o < s->O; o += LANES)
            for (int64_t i = 0; i < s->I; i++) NAME(settle)(s, sums, dw, o, i);
    }
    free(sums);
    return failed;
}

#endif
