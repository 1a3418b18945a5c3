/* What the C files share: bfloat16, and exp and sigmoid that a compiler turns into vectors. */
#ifndef SFUMATO_COMMON_H
#define SFUMATO_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float load_f32(float value) { return value; }
static inline float store_f32(float value) { return value; }

static inline float load_bf16(uint16_t value) { return from_bits((uint32_t)value << 16); }

/* to the nearest, ties to even; what is no number stays none */
static inline uint16_t store_bf16(float value) {
    uint32_t bits = to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(value == value ? rounded : 0x7fc0u);
}

/* exp(x) to 2e-7: 2^k times a polynomial of degree 6 in |r| <= ln(2) / 2 */
static inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float k = x * 1.44269504f;
    k = (k + 12582912.0f) - 12582912.0f; /* to the nearest whole number */
    float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * from_bits((uint32_t)((int32_t)k + 127) << 23);
}

static inline float sigmoid(float z) { return 1.0f / (1.0f + exponential(-z)); }

/* to[i]: the sum of number i of each of `count` parts, which begin `stride` apart */
static inline void add_parts(const float *parts, int64_t count, int64_t stride, int64_t size,
                             float *to) {
    for (int64_t i = 0; i < size; i++) {
        double sum = 0.0;
        for (int64_t part = 0; part < count; part++) sum += parts[part * stride + i];
        to[i] = (float)sum;
    }
}

/* One thread where waking the others takes longer than the work. */
static inline int64_t threads_for(int64_t values, int64_t threads) {
    return values < 32768 ? 1 : threads;
}

#endif
