/* What forward and backward of 3 x 3 convolutions by Winograd's way share: shapes, and where the
 * pixels of a tile lie. A .c file includes it once as it is, and once more for each type. */
#ifndef PIXEL

#include "vectors.h"

#define ASIDE 64 /* values that keep the 16 matrices from falling on the same lines of a cache */

/* up: x is half as high and wide, each pixel standing for four; down: y's pixels are sums of four;
 * turned: kernels w (I, O, 3, 3) stand for those turned about, from I channels to O. */
typedef struct { int64_t B, H, W, I, O, up, down, turned; } Shape;
typedef struct { int64_t across, each, all; } Grid; /* tiles to a row, to an image, in all */

static inline Grid grid_of(const Shape *s) {
    Grid g;
    g.across = (s->W + 1) / 2;
    g.each = g.across * ((s->H + 1) / 2);
    g.all = g.each * s->B;
    return g;
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

#define TAPS 9 /* of a kernel */

#if LANES == 8 && defined(__AVX2__)
static inline void turn(vec r[8]) { /* r[i][j] and r[j][i] change places */
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps((__m256)r[i], (__m256)r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps((__m256)r[i], (__m256)r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
            u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        r[i] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[4 + i] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}
#endif

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

#endif
