/* The file THIS once for each type of its pixels that the processor multiplies fast: float, and
 * bfloat16, of which one instruction takes the sum of two products, so that they lie in PAIRs. */
#if defined(__AVX2__) && defined(__FMA__)
int can_f32(void) { return 1; }
#define PIXEL float
#define PAIR 1
#define NAME(f) f##_f32
static inline vec pixels_f32(const float *at) { return get(at); }
static inline void store_f32s(float *at, vec v) { put(at, v); }
#define LOADS pixels_f32
#define STORES store_f32s
#include "product.h"
#include THIS
#undef PIXEL
#undef PAIR
#undef NAME
#undef LOADS
#undef STORES
#else /* without such instructions PyTorch's own are the faster ones */
int can_f32(void) { return 0; }
#endif

#if defined(__AVX512BF16__) && defined(__AVX512F__)
int can_bf16(void) { return 1; }
#define PIXEL uint16_t
#define PAIR 2
#define NAME(f) f##_bf16
static inline vec pixels_bf16(const uint16_t *at) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
    return (vec)_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline void store_bf16s(uint16_t *at, vec v) {
    _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#define LOADS pixels_bf16
#define STORES store_bf16s
#include "product.h"
#include THIS
#else
int can_bf16(void) { return 0; }
#endif
