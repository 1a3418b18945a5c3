/* Products of matrices for one type of the pixels: see each_product.h. */
/* One step of sums[r] += a b over PAIR products: a is the same for all lanes. */
#if PAIR == 1
#define STEP(sum, a, b) (sum) += *(a) * get(b)
#else
#define STEP(sum, a, b)                                                       \
    (sum) = (vec)_mm512_dpbf16_ps(                                            \
        (__m512)(sum), (__m512bh)_mm512_set1_epi32(*(const int32_t *)(a)),    \
        (__m512bh)_mm512_loadu_si512(b))
#endif

/* sums[r][j] += sum over k of a[k a_k + r a_r] b[k b_k + j], of `rows` rows, `side` vectors wide */
#define PRODUCT(name, rows, side)                                                             \
    static void NAME(name##side)(const PIXEL *a, int64_t a_k, int64_t a_r, const PIXEL *b,    \
                                 int64_t b_k, int64_t depth, float *sums, int64_t next,       \
                                 int more) {                                                  \
        vec s[rows][side];                                                                    \
        for (int r = 0; r < rows; r++)                                                        \
            for (int j = 0; j < side; j++)                                                    \
                s[r][j] = more ? get(sums + r * next + j * LANES) : (vec){0};                 \
        for (int64_t k = 0; k < depth; k++, a += a_k, b += b_k)                               \
            for (int r = 0; r < rows; r++)                                                    \
                for (int j = 0; j < side; j++)                                                \
                    STEP(s[r][j], a + r * a_r, b + j * LANES * PAIR);                         \
        for (int r = 0; r < rows; r++)                                                        \
            for (int j = 0; j < side; j++) put(sums + r * next + j * LANES, s[r][j]);         \
    }
typedef void NAME(Product)(const PIXEL *, int64_t, int64_t, const PIXEL *, int64_t, int64_t,
                           float *, int64_t, int);
PRODUCT(product, ROWS, 1)
PRODUCT(product, ROWS, 2)
PRODUCT(outer, FEW, 1)
PRODUCT(outer, FEW, 2)
#if SIDE == 4
PRODUCT(product, ROWS, 3)
PRODUCT(product, ROWS, 4)
PRODUCT(outer, FEW, 3)
PRODUCT(outer, FEW, 4)
static NAME(Product) *const NAME(products)[] = {
    NAME(product1), NAME(product2), NAME(product3), NAME(product4)};
static NAME(Product) *const NAME(outers)[] = {
    NAME(outer1), NAME(outer2), NAME(outer3), NAME(outer4)};
#else
static NAME(Product) *const NAME(products)[] = {NAME(product1), NAME(product2)};
static NAME(Product) *const NAME(outers)[] = {NAME(outer1), NAME(outer2)};
PRODUCT(five, 5, 2)
#endif

/* sums[r] += sum over k of a[k][r] b[k], sixteen rows, `width` wide, of which there are sixteens */
static inline void NAME(sixteen)(const PIXEL *a, const PIXEL *b, int64_t width, int64_t depth,
                                 float *sums, int64_t next, int more) {
#if SIDE == 4
    for (int64_t r = 0; r < 16; r += FEW)
        NAME(outers)[width / LANES - 1](a + r * PAIR, 16 * PAIR, PAIR, b, width * PAIR, depth,
                                        sums + r * next, next, more);
#else /* two additions begin in each cycle and take four: more than 8 sums have to be under way */
    NAME(product2)(a, 16, 1, b, width, depth, sums, next, more);
    for (int64_t r = ROWS; r < 16; r += 5)
        NAME(five2)(a + r, 16, 1, b, width, depth, sums + r * next, next, more);
#endif
}

/* PAIR values of each lane side by side: to[l][p] = v[p][l] */
static inline void NAME(beside)(PIXEL *to, const vec *v) {
#if PAIR == 1
    put(to, v[0]);
#else
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v[0]));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v[1]));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#endif
}

#undef STEP
#undef PRODUCT
