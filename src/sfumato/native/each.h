/* The file THIS once for each type of its pixels: float, and bfloat16 in the bits of a uint16_t. */
#define PIXEL float
#define LOAD load_f32
#define STORE store_f32
#define NAME(f) f##_f32
#include THIS
#undef PIXEL
#undef LOAD
#undef STORE
#undef NAME

#define PIXEL uint16_t
#define LOAD load_bf16
#define STORE store_bf16
#define NAME(f) f##_bf16
#include THIS
