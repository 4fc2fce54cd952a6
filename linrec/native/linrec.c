/* Compiled kernels of linrec: C11, no dependence on torch. OpenMP where the compiler has it.

   Each kernel is compiled once for every instruction set and element type below, and chosen when it is called:
   one library serves every machine of an architecture. Sizes and strides count elements. */

#define _GNU_SOURCE /* madvise */
#include <complex.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define PASTE_(a, b, c) a##_##b##_##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define NAME(x) PASTE(x, TYPE, SET)
#define PRAGMA(x) _Pragma(#x)
#ifdef _OPENMP
#define PARALLEL(n) PRAGMA(omp parallel for schedule(static) num_threads(n))
#else
#define PARALLEL(n)
#endif

#define TILE 512 /* lanes whose state is kept in the first-level cache */
#define STREAMED (1 << 23) /* bytes of a result from which it is written past the caches */

#ifdef __GNUC__
#define ONE_STEP() __asm__ volatile("") /* or the compiler takes two steps at a time, and twice as many streams */
#else
#define ONE_STEP()
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define WIDE 1 /* vectors can be shuffled */
#endif

/* How lanes and outer axes are cut into tasks. */
typedef struct {
    const int64_t *size; /* of the outer axes, then of the lanes */
    int rank, threads;
    int64_t steps, width, count, tasks, numbers;
} tiling;

static tiling tiles_of(int64_t steps, const int64_t *size, int rank, int threads) {
    int64_t lanes = size[rank], outer = 1, width = lanes;
    for (int axis = 0; axis < rank; axis++) outer *= size[axis];
    /* as wide as possible, but at least one tile a thread; tiles end at multiples of a cache line. A row of one tile is
       not cut: threads that share its pages take longer than one that has them to itself. */
    int64_t wanted = (threads + outer - 1) / outer;
    if (wanted > 1 && lanes > TILE) width = ((lanes + wanted - 1) / wanted + 15) / 16 * 16;
    if (width > TILE) width = TILE;
    if (width > lanes) width = lanes;
    int64_t count = width ? (lanes + width - 1) / width : 0;
    tiling t = {size, rank, threads, steps, width, count, outer * count, steps * outer * lanes};
    return t;
}

static inline int64_t lanes_of(tiling t, int64_t task) {
    int64_t first = task % t.count * t.width, left = t.size[t.rank] - first;
    return left < t.width ? left : t.width;
}

#define MOST_UPDATES 8 /* rank-one updates, and reads, of a matrix state in one step */
#define ALIGNED(bytes) aligned_alloc(64, ((bytes) + 63) / 64 * 64)

/* A walk over matrix states: sizes, and what is kept for the way back. */
typedef struct {
    int64_t steps, K, V, outer, chunk;
    const int64_t *size; /* of the outer axes */
    const int64_t *delay; /* of each read: 0 after the step, 1 before it */
    void *saved;   /* the state before each chunk, (chunks, outer, K, V), or none */
    void *d_final; /* the gradient of the last state, (outer, K, V), or none */
    int rank, R, M, threads;
} walk;

/* A walk over dense transitions: the sizes of A (steps, outer, n, n) and of b (steps, outer, n, columns). */
typedef struct {
    int64_t steps, outer, n, columns;
    int is_conjugate, threads;
} dense_sizes;

#define TENSORS(type, number)     \
    typedef struct {              \
        number *at;               \
        const int64_t *stride;    \
    } tensor_##type;
TENSORS(f32, float)
TENSORS(f64, double)
TENSORS(c64, float complex)
TENSORS(c128, double complex)
#define TENSOR PASTE2(tensor, TYPE)
#define OPERAND TENSOR
#define PASTE2_(a, b) a##_##b
#define PASTE2(a, b) PASTE2_(a, b)

/* STREAM(to, x) writes a vector of LANE_BYTES, one register, past the caches. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_SETS 1
#define FENCE() _mm_sfence()
#define SET v4
#define LANE_BYTES 64
#define STREAM(to, x) _mm512_stream_si512((void *)(to), (__m512i)(x))
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#include "types.h"
#pragma GCC pop_options
#undef SET
#undef LANE_BYTES
#undef STREAM
#define SET v3
#define LANE_BYTES 32
#define STREAM(to, x) _mm256_stream_si256((void *)(to), (__m256i)(x))
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "types.h"
#pragma GCC pop_options
#undef SET
#undef LANE_BYTES
#undef STREAM
#else
#define FENCE()
#endif
#define SET base
#define LANE_BYTES 16
#include "types.h"
#undef SET

static int level(void) {
    static int found = -1;
#ifdef HAS_SETS
    if (found < 0) {
        __builtin_cpu_init();
        found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                    ? 2
                    : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#else
    found = 0;
#endif
    return found;
}

#ifdef HAS_SETS
#define CALL(kernel, type, ...)                                  \
    switch (level()) {                                           \
    case 2: kernel##_##type##_v4(__VA_ARGS__); break;            \
    case 1: kernel##_##type##_v3(__VA_ARGS__); break;            \
    default: kernel##_##type##_base(__VA_ARGS__);                \
    }
#else
#define CALL(kernel, type, ...) (void)level(), kernel##_##type##_base(__VA_ARGS__);
#endif

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Large pages, please, for a large result that is about to be written: the first touch of a fresh page costs more than
   the numbers in it. Only a hint; whole pages inside the result. */
EXPORT void large_pages(char *at, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 4096, first = ((uintptr_t)at + page - 1) / page * page, end = ((uintptr_t)at + (uintptr_t)bytes) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#endif
}

EXPORT int same_bytes(const void *a, const void *b, int64_t bytes) { return memcmp(a, b, (size_t)bytes) == 0; }

#define SCANS(type, number)                                                                                         \
    EXPORT void scan_forward_##type(number *a, number *b, number *h, number *start, const int64_t *strides,         \
                                    int64_t steps, const int64_t *size, int rank, int threads) {                    \
        const int row = rank + 2;                                                                                   \
        CALL(forward, type, (tensor_##type){a, strides}, (tensor_##type){b, strides + row}, (tensor_##type){h, strides + 2 * row}, (tensor_##type){start, strides + 3 * row},   \
             tiles_of(steps, size, rank, threads))                                                                  \
    }                                                                                                               \
    EXPORT void scan_ends_##type(number *a, number *b, number *product, number *end, const int64_t *strides,        \
                                 int64_t steps, const int64_t *size, int rank, int threads) {                       \
        const int row = rank + 2;                                                                                   \
        CALL(ends, type, (tensor_##type){a, strides}, (tensor_##type){b, strides + row}, (tensor_##type){product, strides + 2 * row}, (tensor_##type){end, strides + 3 * row},  \
             tiles_of(steps, size, rank, threads))                                                                  \
    }                                                                                                               \
    EXPORT void scan_backward_##type(number *a, number *g, number *h, number *start, number *da, number *db,        \
                                     number *ds, const int64_t *strides, int64_t steps, const int64_t *size,        \
                                     int rank, int threads) {                                                       \
        const int row = rank + 2;                                                                                   \
        CALL(backward, type, (tensor_##type){a, strides}, (tensor_##type){g, strides + row}, (tensor_##type){h, strides + 2 * row}, (tensor_##type){start, strides + 3 * row},  \
             (tensor_##type){da, strides + 4 * row}, (tensor_##type){db, strides + 5 * row}, (tensor_##type){ds, strides + 6 * row},                             \
             tiles_of(steps, size, rank, threads))                                                                  \
    }

#define MATRICES(type, number)                                                                                      \
    EXPORT void matrix_forward_##type(const walk *c, number *const *at, const int64_t *strides, int count) {        \
        tensor_##type x[8 * MOST_UPDATES];                                                                          \
        for (int i = 0; i < count; i++) x[i] = (tensor_##type){at[i], strides + i * (c->rank + 3)};                 \
        CALL(matrix_forward, type, c, x)                                                                            \
    }                                                                                                               \
    EXPORT void matrix_backward_##type(const walk *c, number *const *at, const int64_t *strides, int count) {       \
        tensor_##type x[12 * MOST_UPDATES];                                                                         \
        for (int i = 0; i < count; i++) x[i] = (tensor_##type){at[i], strides + i * (c->rank + 3)};                 \
        CALL(matrix_backward, type, c, x, x + 1 + 4 * c->R + 2 * c->M + 2)                                          \
    }

#define DENSE(type, number)                                                                                         \
    EXPORT void dense_scan_##type(number *a, number *b, number *h, number *start, const int64_t *strides,           \
                                  int64_t steps, int64_t outer, int64_t n, int64_t columns, int is_conjugate,       \
                                  int threads) {                                                                    \
        CALL(dense, type, (tensor_##type){a, strides}, (tensor_##type){b, strides + 4}, (tensor_##type){h, strides + 8}, \
             (tensor_##type){start, strides + 12}, (dense_sizes){steps, outer, n, columns, is_conjugate, threads})  \
    }

/* Threads take columns of a transpose, and rows whose loudest number is looked for. */
#define LAYOUTS(type, word)                                                                                         \
    EXPORT void transpose_##type(const word *from, word *to, int64_t rows, int64_t columns, int64_t from_row,       \
                                 int64_t to_row, int threads) {                                                     \
        const int64_t part = ((columns + threads - 1) / threads + 15) / 16 * 16;                                    \
        PARALLEL(threads)                                                                                           \
        for (int64_t j = 0; j < columns; j += part) {                                                               \
            const int64_t n = columns - j < part ? columns - j : part;                                              \
            CALL(transpose, type, from + j, to + j * to_row, rows, n, from_row, to_row)                             \
        }                                                                                                           \
    }                                                                                                               \
    EXPORT void loudest_##type(const word *from, word *to, int64_t rows, int64_t columns, int64_t from_row,         \
                               int64_t count, int64_t from_matrix, int threads) {                                   \
        const int64_t part = (rows + threads - 1) / threads;                                                        \
        PARALLEL(threads)                                                                                           \
        for (int64_t i = 0; i < rows; i += part)                                                                    \
            for (int64_t m = 0; m < count; m++) {                                                                   \
                const int64_t n = rows - i < part ? rows - i : part;                                                \
                CALL(loudest, type, from + m * from_matrix + i * from_row, to + i, n, columns, from_row)            \
            }                                                                                                       \
    }

LAYOUTS(w32, uint32_t)
LAYOUTS(w64, uint64_t)
MATRICES(f32, float)
MATRICES(f64, double)
SCANS(f32, float)
SCANS(f64, double)
SCANS(c64, float complex)
SCANS(c128, double complex)
DENSE(f32, float)
DENSE(f64, double)
DENSE(c64, float complex)
DENSE(c128, double complex)
