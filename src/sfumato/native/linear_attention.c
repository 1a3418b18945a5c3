/* Linear attention of the pixels of an image, forward and backward, one head at a time:
 *
 *   Q = softmax of q over its d channels,   K = softmax of k over all positions
 *   S = K^T v / sqrt(d),                    y = Q S
 *
 * Shen et al. (2021), eq. 4 (number from memory). qkv[b][n][q, k, v][head][d] are the pixels; a few
 * more keys and values, the same for every image, come as memory[k, v][head][d][m]. With T = Q^T dy:
 *
 *   dQ = dy S^T,   dv = K T / sqrt(d),   dK = v T^T / sqrt(d),   and through the softmaxes
 *   dq = Q (dQ - Q . dQ),   dk = K (dK - the sum over positions of K dK),  that sum being S . T.
 *
 * Sums run in float32, each head's in the order of its positions. d comes in sixteens.
 *
 * This file includes itself once for each type of the pixels.
 */
#ifndef PIXEL

#include "common.h"

#define LANES 16
#define ROWS 8   /* of a product that are worked on together */
#define BLOCK 32 /* positions that are worked on together: a multiple of ROWS */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef struct {
    const float *memory; /* (2, heads, d, M) */
    int64_t B, N, heads, d, M;
} Attention;

/* y[t][j] (+)= sum over k of a[t * across + k * along] b[k][j], t < rows, j < d */
static void product(float *y, const float *a, int64_t across, int64_t along, const float *b,
                    int64_t rows, int64_t depth, int64_t d, int more) {
    for (int64_t t = 0; t < rows; t += ROWS)
        for (int64_t j = 0; j < d; j += LANES) {
            vec sum[ROWS];
            for (int r = 0; r < ROWS; r++)
                sum[r] = more ? *(const vec *)(y + (t + r) * d + j) : (vec){0};
            for (int64_t k = 0; k < depth; k++) {
                vec line = *(const vec *)(b + k * d + j);
                for (int r = 0; r < ROWS; r++) sum[r] += a[(t + r) * across + k * along] * line;
            }
            for (int r = 0; r < ROWS; r++) *(vec *)(y + (t + r) * d + j) = sum[r];
        }
}

static void turned(float *y, const float *x, int64_t d) {
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) y[j * d + i] = x[i * d + j];
}

/* rows of x become exp(x - most) over: of K, where `over` is 1 / sum */
static void keyed(float *x, int64_t rows, int64_t d, const float *most, const float *over) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            x[r * d + i] = exponential(x[r * d + i] - most[i]) * over[i];
}

static void softened(float *x, int64_t rows, int64_t d) {
    for (int64_t r = 0; r < rows; r++) {
        float *row = x + r * d, most = row[0], sum = 0.0f;
        for (int64_t i = 0; i < d; i++) most = row[i] > most ? row[i] : most;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < d; i++) sum += row[i] = exponential(row[i] - most);
        for (int64_t i = 0; i < d; i++) row[i] *= 1.0f / sum;
    }
}

static void cleared(float *x, int64_t rows, int64_t d) {
    memset(x, 0, rows * d * sizeof(float));
}

#define THIS "linear_attention.c"
#include "each.h"

#else

/* Positions `first` to `first` + rows as floats, zeros beyond them up to BLOCK */
static void NAME(taken)(float *y, const PIXEL *x, int64_t step, int64_t first, int64_t rows,
                        int64_t d) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) y[r * d + i] = LOAD(x[(first + r) * step + i]);
    cleared(y + rows * d, BLOCK - rows, d);
}

static void NAME(given)(PIXEL *y, const float *x, int64_t step, int64_t first, int64_t rows,
                        int64_t d) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) y[(first + r) * step + i] = STORE(x[r * d + i]);
}

/* Keys (which = 0) or values (1) of a block: pixels, or from N on the memories */
static int64_t NAME(block)(const Attention *n, const PIXEL *pixels, int which, int64_t head,
                           int64_t first, float *y) {
    int64_t d = n->d, inner = n->heads * d, left = n->N - first;
    if (left > 0) {
        int64_t rows = left < BLOCK ? left : BLOCK;
        NAME(taken)(y, pixels + (1 + which) * inner, 3 * inner, first, rows, d);
        return rows;
    }
    const float *memory = n->memory + (which * n->heads + head) * d * n->M;
    int64_t rows = n->M + left < BLOCK ? n->M + left : BLOCK;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) y[r * d + i] = memory[i * n->M + r - left];
    cleared(y + rows * d, BLOCK - rows, d);
    return rows;
}

/* S (d, d), and for K each channel's greatest key and 1 / sum */
static void NAME(summed)(const Attention *n, const PIXEL *pixels, int64_t head, float *S,
                         float *most, float *over, float *k, float *v) {
    int64_t d = n->d, rows;
    for (int64_t i = 0; i < d; i++) most[i] = -INFINITY, over[i] = 1.0f;
    for (int64_t p = 0; p < n->N + n->M; p += rows) {
        rows = NAME(block)(n, pixels, 0, head, p, k);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < d; i++)
                most[i] = k[r * d + i] > most[i] ? k[r * d + i] : most[i];
    }
    float *sum = v + BLOCK * d;
    cleared(sum, 1, d);
    cleared(S, d, d);
    for (int64_t p = 0; p < n->N + n->M; p += rows) {
        rows = NAME(block)(n, pixels, 0, head, p, k);
        NAME(block)(n, pixels, 1, head, p, v);
        keyed(k, rows, d, most, over);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < d; i++) sum[i] += k[r * d + i];
        product(S, k, 1, d, v, d, BLOCK, d, 1);
    }
    for (int64_t i = 0; i < d; i++) {
        over[i] = 1.0f / sum[i];
        for (int64_t j = 0; j < d; j++) S[i * d + j] *= over[i] / sqrtf((float)d);
    }
}

/* y (B, N, heads, d); kept (B, heads, d + 2, d): S, the greatest keys and 1 / their sums */
int NAME(linear_forward)(const Attention *n, const PIXEL *qkv, PIXEL *y, float *kept,
                         int64_t threads) {
    int failed = 0;
    int64_t d = n->d, inner = n->heads * d;
    threads = threads_for(n->B * n->N * inner, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < n->B * n->heads; unit++) {
        int64_t b = unit / n->heads, head = unit % n->heads;
        const PIXEL *pixels = qkv + b * n->N * 3 * inner + head * d;
        float *S = kept + unit * (d + 2) * d;
        float *k = malloc((2 * BLOCK + 1) * d * sizeof(float)), *v = k + BLOCK * d;
        if (!k) { failed = 1; continue; }
        NAME(summed)(n, pixels, head, S, S + d * d, S + d * d + d, k, v);
        for (int64_t p = 0; p < n->N; p += BLOCK) {
            int64_t rows = n->N - p < BLOCK ? n->N - p : BLOCK;
            NAME(taken)(k, pixels, 3 * inner, p, rows, d);
            softened(k, rows, d);
            product(v, k, d, 1, S, BLOCK, d, d, 0);
            NAME(given)(y + b * n->N * inner + head * d, v, inner, p, rows, d);
        }
        free(k);
    }
    return failed;
}

/* dq of the pixels, and T */
static void NAME(asked)(const Attention *n, const PIXEL *pixels, const PIXEL *dy, PIXEL *dq,
                        const float *S, float *T, float *turn, float *room) {
    int64_t d = n->d, inner = n->heads * d;
    float *Q = room, *up = Q + BLOCK * d, *of = up + BLOCK * d;
    turned(turn, S, d);
    cleared(T, d, d);
    for (int64_t p = 0; p < n->N; p += BLOCK) {
        int64_t rows = n->N - p < BLOCK ? n->N - p : BLOCK;
        NAME(taken)(Q, pixels, 3 * inner, p, rows, d);
        NAME(taken)(up, dy, inner, p, rows, d);
        softened(Q, rows, d);
        product(T, Q, 1, d, up, d, BLOCK, d, 1);
        product(of, up, d, 1, turn, BLOCK, d, d, 0);
        for (int64_t r = 0; r < rows; r++) {
            float sum = 0.0f, *row = of + r * d, *q = Q + r * d;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < d; i++) sum += q[i] * row[i];
            for (int64_t i = 0; i < d; i++) row[i] = q[i] * (row[i] - sum);
        }
        NAME(given)(dq, of, 3 * inner, p, rows, d);
    }
}

/* dk and dv of the pixels and the memories; T is divided by sqrt(d) */
static void NAME(told)(const Attention *n, const PIXEL *pixels, PIXEL *dq, float *dmemory,
                       int64_t head, const float *S, float *T, float *turn, float *room) {
    int64_t d = n->d, inner = n->heads * d, rows;
    float *k = room, *v = k + BLOCK * d, *of = v + BLOCK * d, *along = of + BLOCK * d;
    cleared(along, 1, d);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) {
            along[i] += S[i * d + j] * T[i * d + j];
            T[i * d + j] /= sqrtf((float)d);
        }
    turned(turn, T, d);
    for (int64_t p = 0; p < n->N + n->M; p += rows) {
        rows = NAME(block)(n, pixels, 0, head, p, k);
        NAME(block)(n, pixels, 1, head, p, v);
        keyed(k, rows, d, S + d * d, S + d * d + d);
        product(of, v, d, 1, turn, BLOCK, d, d, 0);
        product(v, k, d, 1, T, BLOCK, d, d, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < d; i++)
                of[r * d + i] = k[r * d + i] * (of[r * d + i] - along[i]);
        if (p < n->N) {
            NAME(given)(dq + inner, of, 3 * inner, p, rows, d);
            NAME(given)(dq + 2 * inner, v, 3 * inner, p, rows, d);
            continue;
        }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < d; i++) {
                int64_t at = (head * d + i) * n->M + p - n->N + r;
                dmemory[at] = of[r * d + i], dmemory[n->heads * d * n->M + at] = v[r * d + i];
            }
    }
}

/* dqkv like qkv; dmemory (B, 2, heads, d, M) */
int NAME(linear_backward)(const Attention *n, const PIXEL *qkv, const PIXEL *dy,
                          const float *kept, PIXEL *dqkv, float *dmemory, int64_t threads) {
    int failed = 0;
    int64_t d = n->d, inner = n->heads * d;
    threads = threads_for(n->B * n->N * inner, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t unit = 0; unit < n->B * n->heads; unit++) {
        int64_t b = unit / n->heads, head = unit % n->heads;
        int64_t at = b * n->N * 3 * inner + head * d;
        const float *S = kept + unit * (d + 2) * d;
        float *T = malloc((2 * d + 3 * BLOCK + 1) * d * sizeof(float));
        if (!T) { failed = 1; continue; }
        float *turn = T + d * d, *room = turn + d * d;
        NAME(asked)(n, qkv + at, dy + b * n->N * inner + head * d, dqkv + at, S, T, turn, room);
        NAME(told)(n, qkv + at, dqkv + at, dmemory + b * 2 * inner * n->M, head, S, T, turn, room);
        free(T);
    }
    return failed;
}

#endif
