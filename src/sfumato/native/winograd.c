/* 3 x 3 convolutions, step 1, a border of one zero, by Winograd's minimal filtering F(2 x 2, 3 x 3):
 * 16 products where 36 stand in the definition (Lavin and Gray 2016, section 4.1).
 *
 *   y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A     of a tile d of 4 x 4, giving 2 x 2
 *
 * x[b][row][column][c]: channels side by side. The gradient with regard to x is the same convolution
 * of dy by the kernels turned about, their channels exchanged. Sums run in float32, in an order that
 * does not depend on the number of threads. Channels come in sixteens.
 *
 * U[xi][k][o][P] holds the transformed kernels of a panel, up to WIDE output channels, for a product's
 * lanes: P = 2 input channels lie beside each other where one instruction takes the sum of two
 * products (bfloat16), or 1.
 *
 * Where x's pixels stand for four each, d1 = d2 in every tile, so that one of four in each direction
 * comes to nothing, and 9 products do; likewise where four of y's are added.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "winograd.h"

#define TILES 48   /* to a block, at most: a multiple of ROWS */
#define SCANTY 128 /* tiles, up to which kernels are many more than they */
#define CHUNK 128  /* input channels whose kernels for a panel stay in a processor's cache */

static inline int64_t in_rows(int64_t tiles) { return (tiles + ROWS - 1) / ROWS * ROWS; }

/* Tiles to a block: as many to each thread, in ROWS, where there are few */
static inline int64_t block_of(Grid g, int64_t threads) {
    int64_t turns = threads * ((g.all + TILES * threads - 1) / (TILES * threads));
    return in_rows((g.all + turns - 1) / turns);
}

/* Kernels are short rows that lie apart. Where a register takes a row, they are turned in registers:
 * 16 loads and 64 shuffles stand for 144 loads (experiments/LOG.md). */
#if LANES == 16
static inline void turn(__m512 r[16]) { /* r[i][j] and r[j][i] change places */
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + 2 + j]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; i++) { /* now each quarter of r[i + 4 q] is turned */
        __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x44);
        __m512 b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x44);
        __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xee);
        __m512 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xee);
        t[i] = _mm512_shuffle_f32x4(a, b, 0x88), t[i + 4] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(c, d, 0x88), t[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    memcpy(r, t, sizeof t);
}

/* k[n][l] of w[l next + n] */
static inline void taps_of(const float *w, int64_t next, vec *k) {
    __m512 r[16];
    for (int l = 0; l < LANES; l++) r[l] = _mm512_maskz_loadu_ps((1 << TAPS) - 1, w + l * next);
    turn(r);
    for (int n = 0; n < TAPS; n++) k[n] = (vec)r[n];
}
#elif defined(__AVX2__)
static inline void taps_of(const float *w, int64_t next, vec *k) { /* all but the last are turned */
    for (int l = 0; l < LANES; l++) k[l] = get(w + l * next);
    turn(k);
    for (int l = 0; l < LANES; l++) k[TAPS - 1][l] = w[l * next + TAPS - 1];
}
#endif

/* G of three values; the result is four */
static inline void kernel_side(const vec *g, int64_t from, vec *u, int64_t to) {
    vec half = (g[0] + g[2 * from]) * 0.5f, middle = g[from] * 0.5f;
    u[0] = g[0], u[to] = half + middle, u[2 * to] = half - middle, u[3 * to] = g[2 * from];
}

#define THIS "winograd.c"
#include "each_product.h"

#else

#include "winograd.h"

/* V[xi][t][c], `next` apart, of `count` tiles from `first` on; those past the last are zero */
static void NAME(spread)(const Shape *s, Grid g, const PIXEL *x, int64_t first, int64_t count,
                         const PIXEL *none, PIXEL *V, int64_t next) {
    for (int64_t t = 0; t < count; t++) {
        const PIXEL *at[16];
        NAME(points)(s, g, s->I, x, first + t, -1, 4, s->up, none, at);
        for (int64_t c = 0; c < s->I; c += LANES) {
            vec d[16];
            for (int n = 0; n < 16; n++) d[n] = LOADS(at[n] + c);
            for (int j = 0; j < 4; j++) SPREAD((d + j), 4);
            for (int i = 0; i < 4; i++) SPREAD((d + 4 * i), 1);
            for (int xi = 0; xi < 16; xi++) STORES(V + xi * next + t * s->I + c, d[xi]);
        }
    }
}

/* y's 2 x 2 pixels of each tile from M[xi][t][WIDE], `next` apart, `width` channels from o on */
static void NAME(gather)(const Shape *s, Grid g, const float *M, int64_t next, const float *bias,
                         int64_t first, int64_t last, int64_t o, int64_t width, PIXEL *y) {
    for (int64_t t = first; t < last; t++) {
        int64_t b = t / g.each, row = t % g.each / g.across * 2, column = t % g.across * 2;
        for (int64_t c = 0; c < width; c += LANES) {
            vec half[8], add = bias ? get(bias + o + c) : (vec){0};
            for (int j = 0; j < 4; j++) {
                const int64_t down = 4 * next;
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

/* U[xi][k][o][P] of LANES outputs from o on, inputs from i0 to i1, in a panel of `width` outputs */
static void NAME(kernels)(const Shape *s, const float *w, int64_t o, int64_t i0, int64_t i1,
                          int64_t width, PIXEL *U) {
    const int64_t out = s->turned ? TAPS : s->I * TAPS, in = s->turned ? s->O * TAPS : TAPS;
    for (int64_t i = i0; i < i1; i += PAIR) {
        vec u[PAIR][16];
        for (int p = 0; p < PAIR; p++) {
            vec k[TAPS], half[12];
            taps_of(w + o * out + (i + p) * in, out, k);
            for (int n = 0; s->turned && n < TAPS / 2; n++) {
                vec last = k[TAPS - 1 - n];
                k[TAPS - 1 - n] = k[n], k[n] = last;
            }
            for (int j = 0; j < 3; j++) kernel_side(k + j, 3, half + j, 3);
            for (int j = 0; j < 4; j++) kernel_side(half + 3 * j, 1, u[p] + 4 * j, 1);
        }
        for (int xi = 0; xi < 16; xi++) {
            vec both[] = {u[0][xi], u[PAIR - 1][xi]};
            PIXEL *to = U + xi * (i1 - i0) * width + (i - i0) * width + o % WIDE * PAIR;
            NAME(beside)(to, both);
        }
    }
}

/* M[xi][t][WIDE] of `rows` tiles and a panel's `width` outputs, inputs from i0 to i1; more: added */
static void NAME(multiply)(const Shape *s, const PIXEL *V, int64_t v_next, const PIXEL *U,
                           int64_t i0, int64_t i1, int64_t rows, int64_t width, float *M,
                           int64_t m_next, int more) {
    NAME(Product) *product = NAME(products)[width / LANES - 1];
    for (int64_t xi = 0; xi < 16; xi++)
        for (int64_t t = 0; t < rows && !idle(s, xi); t += ROWS)
            product(V + xi * v_next + t * s->I + i0, PAIR, s->I, U + xi * (i1 - i0) * width,
                    width * PAIR, (i1 - i0) / PAIR, M + xi * m_next + t * WIDE, WIDE, more);
}

/* Of few tiles: each panel's kernels are transformed where they are wanted, a chunk at a time */
static int NAME(by_panels)(const Shape *s, Grid g, const PIXEL *x, const float *w,
                           const float *bias, PIXEL *y, int64_t threads) {
    const int64_t tiles = in_rows(g.all), v_next = tiles * s->I + ASIDE;
    const int64_t m_next = tiles * WIDE + ASIDE;
    PIXEL *V = aligned_alloc(64, 16 * v_next * sizeof(PIXEL)), *none = calloc(s->I, sizeof(PIXEL));
    int failed = !(V && none);
#pragma omp parallel num_threads(threads)
    {
        float *M = aligned_alloc(64, 16 * m_next * sizeof(float));
        PIXEL *U = aligned_alloc(64, 16 * CHUNK * WIDE * sizeof(PIXEL));
        int ready = M && U && V && none;
        if (!ready) failed = 1;
        if (ready) memset(M, 0, 16 * m_next * sizeof(float)); /* the idle ones */
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t += ROWS)
            if (ready) NAME(spread)(s, g, x, t, ROWS, none, V + t * s->I, v_next);
#pragma omp for schedule(static)
        for (int64_t o = 0; o < s->O; o += WIDE) {
            int64_t width = least(WIDE, s->O - o);
            for (int64_t i0 = 0; i0 < s->I && ready; i0 += CHUNK) {
                int64_t i1 = least(i0 + CHUNK, s->I);
                for (int64_t c = 0; c < width; c += LANES) NAME(kernels)(s, w, o + c, i0, i1, width, U);
                NAME(multiply)(s, V, v_next, U, i0, i1, tiles, width, M, m_next, i0 > 0);
            }
            if (ready) NAME(gather)(s, g, M, m_next, bias, 0, g.all, o, width, y);
        }
        free(M);
        free(U);
    }
    free(V);
    free(none);
    return failed;
}

/* Of many: all kernels first, U[panel][xi][k][o][P] */
static int NAME(by_tiles)(const Shape *s, Grid g, const PIXEL *x, const float *w, const float *bias,
                          PIXEL *y, int64_t threads) {
    const int64_t v_next = TILES * s->I + ASIDE, m_next = TILES * WIDE + ASIDE;
    const int64_t block = block_of(g, threads);
    PIXEL *U = aligned_alloc(64, 16 * s->I * s->O * sizeof(PIXEL));
    int failed = !U;
#pragma omp parallel num_threads(threads)
    {
        PIXEL *V = aligned_alloc(64, 16 * v_next * sizeof(PIXEL));
        float *M = aligned_alloc(64, 16 * m_next * sizeof(float));
        PIXEL *none = calloc(s->I, sizeof(PIXEL));
        int ready = U && V && M && none;
        if (!ready) failed = 1;
        if (ready) memset(M, 0, 16 * m_next * sizeof(float)); /* the idle ones */
#pragma omp for schedule(static)
        for (int64_t o = 0; o < s->O; o += LANES) {
            int64_t start = o / WIDE * WIDE, width = least(WIDE, s->O - start);
            if (ready) NAME(kernels)(s, w, o, 0, s->I, width, U + start * 16 * s->I);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < g.all; first += block) {
            if (!ready) continue;
            NAME(spread)(s, g, x, first, block, none, V, v_next);
            int64_t rows = least(block, g.all - first);
            for (int64_t o = 0; o < s->O; o += WIDE) {
                int64_t width = least(WIDE, s->O - o);
                const PIXEL *panel = U + o * 16 * s->I;
                NAME(multiply)(s, V, v_next, panel, 0, s->I, rows, width, M, m_next, 0);
                NAME(gather)(s, g, M, m_next, bias, first, first + rows, o, width, y);
            }
        }
        free(V);
        free(M);
        free(none);
    }
    free(U);
    return failed;
}

/* y (B, H, W, O) of x (B, H, W, I), kernels w (O, I, 3, 3) or, turned, (I, O, 3, 3), and bias (O),
 * NULL where down. 0, or 1 where memory is short. */
int NAME(winograd_forward)(const Shape *s, const PIXEL *x, const float *w, const float *bias,
                           PIXEL *y, int64_t threads) {
    Grid g = grid_of(s);
    return (g.all <= SCANTY ? NAME(by_panels) : NAME(by_tiles))(s, g, x, w, bias, y, threads);
}

#endif
