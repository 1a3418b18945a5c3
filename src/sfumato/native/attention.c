/* Attention of a few hundred tokens, forward and backward, one head of one image at a time:
 *
 *   P = softmax over the keys of q k^T / sqrt(d),    y = P v
 *
 * Vaswani et al. (2017), eq. 1. With L the logarithm of a row's sum, kept from the way forward,
 *
 *   P = exp(q k^T / sqrt(d) - L),   dP = dy v^T,   dS = P (dP - the sum over the keys of P dP) / sqrt(d)
 *   dq = dS k,   dk = dS^T q,   dv = P^T dy
 *
 * A product's first factor is read value by value, its second by lanes, in one of two forms:
 * "lying", [d / P][tokens][P], and "standing", [tokens / P][d][P], P = 2 numbers beside each other
 * where one instruction takes the sum of two products (bfloat16), or 1. Sums run in float32, in an
 * order that does not depend on the number of threads. d comes in sixteens. Rows and lanes past the
 * last token meet zeros in the other factor.
 *
 * This file includes itself once for each type of the numbers.
 */
#ifndef PIXEL

#include "vectors.h"

typedef struct { int64_t image, head, token; } Steps; /* from one to the next, in numbers */
typedef struct {
    int64_t B, heads, N, M, d; /* N queries, M keys */
    Steps q, k, v, dq, dk, dv; /* y and dy are (B, N, heads, d) */
} Attention;

static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

static inline int64_t start(Steps s, int64_t b, int64_t head) {
    return b * s.image + head * s.head;
}

#define THIS "attention.c"
#include "each_product.h"

#else

/* ROWS rows from `first` on side by side, zeros past the last of `all` */
static void NAME(rows_of)(PIXEL *to, const PIXEL *x, int64_t step, int64_t first, int64_t all,
                          int64_t d) {
    for (int64_t r = 0; r < ROWS; r++, to += d) {
        if (first + r < all)
            memcpy(to, x + (first + r) * step, d * sizeof(PIXEL));
        else
            memset(to, 0, d * sizeof(PIXEL));
    }
}

/* Value by value: what a compiler makes of it with scattered stores takes three times as long. */
__attribute__((optimize("no-tree-vectorize")))
static void NAME(lying)(PIXEL *to, const PIXEL *x, int64_t step, int64_t all, int64_t wide,
                        int64_t d) {
    for (int64_t c = 0; c < d; c += PAIR, to += wide * PAIR) {
        for (int64_t n = 0; n < all; n++)
            memcpy(to + n * PAIR, x + n * step + c, PAIR * sizeof(PIXEL));
        memset(to + all * PAIR, 0, (wide - all) * PAIR * sizeof(PIXEL));
    }
}

static void NAME(standing)(PIXEL *to, const PIXEL *x, int64_t step, int64_t all, int64_t wide,
                           int64_t d) {
    for (int64_t n = 0; n < wide; n += PAIR)
        for (int64_t c = 0; c < d; c += LANES) {
            vec both[PAIR];
            for (int p = 0; p < PAIR; p++)
                both[p] = n + p < all ? LOADS(x + (n + p) * step + c) : (vec){0};
            NAME(beside)(to + (n / PAIR * d + c) * PAIR, both);
        }
}

/* y[r][j], r < ROWS, j < width: of a (ROWS, depth) and b, lying or standing */
static void NAME(times)(float *y, const PIXEL *a, const PIXEL *b, int64_t depth, int64_t width) {
    for (int64_t j = 0; j < width; j += WIDE)
        NAME(products)[least(WIDE, width - j) / LANES - 1](
            a, PAIR, depth, b + j * PAIR, width * PAIR, depth / PAIR, y + j, width, 0);
}

static void NAME(given)(PIXEL *y, const float *x, int64_t step, int64_t first, int64_t all,
                        int64_t rows, int64_t d) {
    for (int64_t r = 0; r < least(rows, all - first); r++)
        for (int64_t c = 0; c < d; c += LANES)
            STORES(y + (first + r) * step + c, get(x + r * d + c));
}

/* A row of scores becomes exp(scale s - most), of `all` keys; gives most, and the sum in *sum */
static float NAME(softened)(float *s, int64_t all, float scale, float *sum) {
    float most = s[0], total = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t m = 0; m < all; m++) most = s[m] > most ? s[m] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t m = 0; m < all; m++) total += s[m] = exponential((s[m] - most) * scale);
    *sum = total;
    return most * scale;
}

/* Where one head of one image begins in each tensor; y stands for dy on the way back */
typedef struct { const PIXEL *q, *k, *v; PIXEL *y, *dq, *dk, *dv; float *L; } NAME(Head);

static void NAME(forward)(const Attention *n, NAME(Head) h, PIXEL *keys, float *score) {
    const int64_t d = n->d, wide = whole(n->M, LANES), token = n->heads * d;
    const float scale = 1.0f / sqrtf((float)d);
    PIXEL *values = keys + d * wide, *P = values + d * wide;
    float *sums = score + ROWS * wide, sum[ROWS];
    PIXEL *asked = (PIXEL *)(sums + ROWS * d);
    NAME(lying)(keys, h.k, n->k.token, n->M, wide, d);
    NAME(standing)(values, h.v, n->v.token, n->M, wide, d);
    for (int64_t at = 0; at < n->N; at += ROWS) {
        NAME(rows_of)(asked, h.q, n->q.token, at, n->N, d);
        NAME(times)(score, asked, keys, d, wide);
        for (int64_t r = 0; r < ROWS; r++) {
            float most = NAME(softened)(score + r * wide, n->M, scale, sum + r);
            if (at + r < n->N) h.L[at + r] = most + logf(sum[r]);
        }
        for (int64_t m = 0; m < ROWS * wide; m += LANES) STORES(P + m, get(score + m));
        NAME(times)(sums, P, values, wide, d);
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t c = 0; c < d; c++) sums[r * d + c] *= 1.0f / sum[r];
        NAME(given)(h.y, sums, token, at, n->N, ROWS, d);
    }
}

/* Scores become P, and dP becomes dS, of one query */
static void NAME(through)(float *s, float *dp, int64_t all, float scale, float L) {
    float along = 0.0f;
#pragma omp simd reduction(+ : along)
    for (int64_t m = 0; m < all; m++) along += dp[m] * (s[m] = exponential(s[m] * scale - L));
    for (int64_t m = 0; m < all; m++) dp[m] = s[m] * (dp[m] - along) * scale;
}

/* y (rows, d) of x^T w, x being [N / P][wide][P] and w standing, for `all` rows */
static void NAME(back)(PIXEL *y, int64_t step, const PIXEL *x, const PIXEL *w, int64_t deep,
                       int64_t all, int64_t wide, int64_t d, float *sums) {
    for (int64_t m = 0; m < all; m += FEW) {
        for (int64_t j = 0; j < d; j += WIDE)
            NAME(outers)[least(WIDE, d - j) / LANES - 1](
                x + m * PAIR, wide * PAIR, PAIR, w + j * PAIR, d * PAIR, deep / PAIR, sums + j, d, 0);
        NAME(given)(y, sums, step, m, all, FEW, d);
    }
}

/* Rows of x, (ROWS, wide), as those of a first factor turned about: [ROWS / P][wide][P] */
static void NAME(paired)(PIXEL *to, const float *x, int64_t wide) {
    for (int64_t r = 0; r < ROWS; r += PAIR)
        for (int64_t m = 0; m < wide; m += LANES) {
            vec both[PAIR];
            for (int p = 0; p < PAIR; p++) both[p] = get(x + (r + p) * wide + m);
            NAME(beside)(to + r * wide + m * PAIR, both);
        }
}

static void NAME(backward)(const Attention *n, NAME(Head) h, PIXEL *lie_k, float *S) {
    const int64_t d = n->d, wide = whole(n->M, LANES), deep = whole(n->N, ROWS);
    const int64_t token = n->heads * d;
    const float scale = 1.0f / sqrtf((float)d);
    PIXEL *lie_v = lie_k + d * wide, *stand_k = lie_v + d * wide;
    PIXEL *stand_q = stand_k + d * wide, *stand_y = stand_q + d * deep;
    PIXEL *P = stand_y + d * deep, *dS = P + deep * wide;
    PIXEL *row = dS + deep * wide, *asked = row + ROWS * wide, *up = asked + ROWS * d;
    float *dP = S + ROWS * wide, *sums = dP + ROWS * wide;
    NAME(lying)(lie_k, h.k, n->k.token, n->M, wide, d);
    NAME(lying)(lie_v, h.v, n->v.token, n->M, wide, d);
    NAME(standing)(stand_k, h.k, n->k.token, n->M, wide, d);
    NAME(standing)(stand_q, h.q, n->q.token, n->N, deep, d);
    NAME(standing)(stand_y, h.y, token, n->N, deep, d);
    for (int64_t at = 0; at < n->N; at += ROWS) {
        NAME(rows_of)(asked, h.q, n->q.token, at, n->N, d);
        NAME(rows_of)(up, h.y, token, at, n->N, d);
        NAME(times)(S, asked, lie_k, d, wide);
        NAME(times)(dP, up, lie_v, d, wide);
        for (int64_t r = 0; r < ROWS; r++) /* past the last query dy is zero */
            NAME(through)(S + r * wide, dP + r * wide, n->M, scale,
                          at + r < n->N ? h.L[at + r] : 0.0f);
        NAME(paired)(P + at * wide, S, wide);
        NAME(paired)(dS + at * wide, dP, wide);
        for (int64_t m = 0; m < ROWS * wide; m += LANES) STORES(row + m, get(dP + m));
        NAME(times)(sums, row, stand_k, wide, d);
        NAME(given)(h.dq, sums, n->dq.token, at, n->N, ROWS, d);
    }
    NAME(back)(h.dk, n->dk.token, dS, stand_q, deep, n->M, wide, d, sums);
    NAME(back)(h.dv, n->dv.token, P, stand_y, deep, n->M, wide, d, sums);
}

/* One head of one image after the other, each with room for `pixels` and `floats` */
static int NAME(each)(const Attention *n, NAME(Head) all, int64_t pixels, int64_t floats,
                      void (*work)(const Attention *, NAME(Head), PIXEL *, float *),
                      int64_t threads) {
    int failed = 0;
    threads = threads_for(n->B * n->N * n->heads * n->d, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < n->B * n->heads; unit++) {
        int64_t b = unit / n->heads, head = unit % n->heads;
        PIXEL *room = aligned_alloc(64, whole(pixels * sizeof(PIXEL), 64));
        float *sums = aligned_alloc(64, whole(floats * sizeof(float), 64));
        NAME(Head) h = all;
        h.q += start(n->q, b, head), h.k += start(n->k, b, head), h.v += start(n->v, b, head);
        h.y += (b * n->N * n->heads + head) * n->d, h.L += unit * n->N;
        h.dq += start(n->dq, b, head), h.dk += start(n->dk, b, head), h.dv += start(n->dv, b, head);
        if (room && sums)
            work(n, h, room, sums);
        else
            failed = 1;
        free(room);
        free(sums);
    }
    return failed;
}

/* y (B, N, heads, d); kept (B, heads, N) is L */
int NAME(attention_forward)(const Attention *n, const PIXEL *q, const PIXEL *k, const PIXEL *v,
                            PIXEL *y, float *kept, int64_t threads) {
    NAME(Head) all = {q, k, v, y, y, y, y, kept}; /* no gradients yet: their steps are zero */
    int64_t wide = whole(n->M, LANES);
    return NAME(each)(n, all, (2 * n->d + ROWS) * wide, ROWS * (wide + 2 * n->d), NAME(forward),
                      threads);
}

/* dq, dk and dv as q, k and v */
int NAME(attention_backward)(const Attention *n, const PIXEL *q, const PIXEL *k, const PIXEL *v,
                             PIXEL *dy, float *kept, PIXEL *dq, PIXEL *dk, PIXEL *dv,
                             int64_t threads) {
    NAME(Head) all = {q, k, v, dy, dq, dk, dv, kept};
    int64_t wide = whole(n->M, LANES), deep = whole(n->N, ROWS);
    int64_t pixels = 3 * n->d * wide + 2 * n->d * deep + 2 * deep * wide;
    return NAME(each)(n, all, pixels + ROWS * (wide + 2 * n->d), ROWS * (2 * wide + n->d),
                      NAME(backward), threads);
}

#endif
