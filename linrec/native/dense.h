/* Dense scans, s[k] = A[k] s[k-1] + b[k], for one element type (NUMBER) and one instruction set.

   A is (n, n), s and b are (n, columns); every number of A is read once a task. A tensor is a base pointer and strides
   in elements: time, outer, row, column; they may be zero (broadcast) or negative. With rows and columns of A
   exchanged, A conjugated and time reversed, the same walk is the recurrence of the adjoints.

   Columns do not depend on one another. Many of them lie in lanes, and each number of A is multiplied with a vector of
   them. Few are products of a matrix and a vector each: dot products where rows of A lie in memory, sums of columns
   where columns do. */

#ifdef INTEGER /* real numbers, in whole vectors */
#define VEC NAME(vec)
#define QUARTER NAME(quarter)
#define W ((int)(64 / sizeof(NUMBER)))
#define Q (W / 4)
typedef NUMBER NAME(any_vec) __attribute__((vector_size(64), aligned(sizeof(NUMBER)), may_alias));
typedef NUMBER NAME(any_quarter) __attribute__((vector_size(16), aligned(sizeof(NUMBER)), may_alias));
#define AT(p) (*(NAME(any_vec) *)(p))
#define AT_QUARTER(p) (*(NAME(any_quarter) *)(p))

/* to[r] += A[r] s, for a few rows at once: their sums do not wait for one another. */
static INLINE void NAME(dots)(const NUMBER *a, int64_t row, const NUMBER *s, NUMBER *to, int64_t n, const int rows,
                              const int is_conjugate) {
    NUMBER sum[4];
    int64_t j = 0;
    for (int r = 0; r < rows; r++) sum[r] = to[r];
    if (n >= W) {
        VEC part[4];
        for (int r = 0; r < rows; r++) part[r] = (VEC){0};
        for (; j + W <= n; j += W)
            for (int r = 0; r < rows; r++) part[r] += AT(a + r * row + j) * AT(s + j);
        for (int r = 0; r < rows; r++) sum[r] += NAME(total)(part[r]);
    }
    if (j + Q <= n) {
        QUARTER part[4];
        for (int r = 0; r < rows; r++) part[r] = (QUARTER){0};
        for (; j + Q <= n; j += Q)
            for (int r = 0; r < rows; r++) part[r] += AT_QUARTER(a + r * row + j) * AT_QUARTER(s + j);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < Q; i++) sum[r] += part[r][i];
    }
    for (; j < n; j++)
        for (int r = 0; r < rows; r++) sum[r] += a[r * row + j] * s[j];
    for (int r = 0; r < rows; r++) to[r] = sum[r];
}

/* to += sum over j of A's column j times s[j], a few vectors of rows at once. */
static INLINE void NAME(sums)(const NUMBER *a, int64_t column, const NUMBER *s, NUMBER *to, int64_t n,
                              const int is_conjugate) {
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        VEC sum[4];
        for (int r = 0; r < 4; r++) sum[r] = AT(to + i + r * W);
        for (int64_t j = 0; j < n; j++)
            for (int r = 0; r < 4; r++) sum[r] += AT(a + j * column + i + r * W) * s[j];
        for (int r = 0; r < 4; r++) AT(to + i + r * W) = sum[r];
    }
    for (; i + W <= n; i += W) {
        VEC sum = AT(to + i);
        for (int64_t j = 0; j < n; j++) sum += AT(a + j * column + i) * s[j];
        AT(to + i) = sum;
    }
    for (; i + Q <= n; i += Q) {
        QUARTER sum = AT_QUARTER(to + i);
        for (int64_t j = 0; j < n; j++) sum += AT_QUARTER(a + j * column + i) * s[j];
        AT_QUARTER(to + i) = sum;
    }
    for (; i < n; i++)
        for (int64_t j = 0; j < n; j++) to[i] += a[j * column + i] * s[j];
}

/* to += A s for some rows of A, where s and to are (n, vectors). */
static INLINE void NAME(spread)(const NUMBER *a, int64_t row, int64_t column, const VEC *s, VEC *to, int64_t n,
                                int64_t vectors, const int rows) {
    for (int64_t v = 0; v < vectors; v++) {
        VEC sum[6];
        for (int r = 0; r < rows; r++) sum[r] = to[r * vectors + v];
        for (int64_t j = 0; j < n; j++)
            for (int r = 0; r < rows; r++) sum[r] += a[r * row + j * column] * s[j * vectors + v];
        for (int r = 0; r < rows; r++) to[r * vectors + v] = sum[r];
    }
}

/* Many columns: lanes. What lies beside the last column stays there and is written nowhere. */
static void NAME(walk_lanes)(TENSOR a, TENSOR b, TENSOR h, TENSOR start, dense_sizes d, int64_t width) {
    const int64_t n = d.n, vectors = (width + W - 1) / W, lanes = vectors * W;
    const int64_t *bs = b.stride, *hs = h.stride;
    NUMBER *memory = ALIGNED(2 * (size_t)(n * lanes) * sizeof(NUMBER)), *s = memory, *to = memory + n * lanes;
    memset(memory, 0, 2 * (size_t)(n * lanes) * sizeof(NUMBER));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) s[i * lanes + j] = start.at[i * start.stride[2] + j * start.stride[3]];
    for (int64_t k = 0; k < d.steps; k++, a.at += a.stride[0], b.at += bs[0], h.at += hs[0]) {
        if (bs[3] == 1)
            for (int64_t i = 0; i < n; i++) memcpy(to + i * lanes, b.at + i * bs[2], (size_t)width * sizeof(NUMBER));
        else
            for (int64_t j = 0; j < width; j++)
                for (int64_t i = 0; i < n; i++) to[i * lanes + j] = b.at[i * bs[2] + j * bs[3]];
        int64_t i = 0;
        for (; i + 6 <= n; i += 6)
            NAME(spread)(a.at + i * a.stride[2], a.stride[2], a.stride[3], (VEC *)s, (VEC *)(to + i * lanes), n, vectors, 6);
        for (; i + 2 <= n; i += 2)
            NAME(spread)(a.at + i * a.stride[2], a.stride[2], a.stride[3], (VEC *)s, (VEC *)(to + i * lanes), n, vectors, 2);
        if (i < n)
            NAME(spread)(a.at + i * a.stride[2], a.stride[2], a.stride[3], (VEC *)s, (VEC *)(to + i * lanes), n, vectors, 1);
        NUMBER *done = to;
        to = s, s = done;
        if (hs[3] == 1)
            for (i = 0; i < n; i++) memcpy(h.at + i * hs[2], s + i * lanes, (size_t)width * sizeof(NUMBER));
        else
            for (int64_t j = 0; j < width; j++)
                for (i = 0; i < n; i++) h.at[i * hs[2] + j * hs[3]] = s[i * lanes + j];
    }
    free(memory);
}

#define LANES_FROM (W / 4) /* columns */
#define EACH(x) (x)
#else /* complex numbers */
#define W 4
#define EACH(x) (is_conjugate ? CONJ(x) : (x))

static INLINE void NAME(dots)(const NUMBER *a, int64_t row, const NUMBER *s, NUMBER *to, int64_t n, const int rows,
                              const int is_conjugate) {
    NUMBER sum[4];
    for (int r = 0; r < rows; r++) sum[r] = to[r];
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < rows; r++) sum[r] += EACH(a[r * row + j]) * s[j];
    for (int r = 0; r < rows; r++) to[r] = sum[r];
}

static INLINE void NAME(sums)(const NUMBER *a, int64_t column, const NUMBER *s, NUMBER *to, int64_t n,
                              const int is_conjugate) {
    for (int64_t j = 0; j < n; j++) {
        const NUMBER x = s[j];
        for (int64_t i = 0; i < n; i++) to[i] += EACH(a[j * column + i]) * x;
    }
}
#endif

/* A few states, in registers. */
static INLINE void NAME(walk_small)(TENSOR a, TENSOR b, TENSOR h, TENSOR start, int64_t steps, const int n,
                                    const int is_conjugate) {
    NUMBER s[4];
    for (int i = 0; i < n; i++) s[i] = start.at[i * start.stride[2]];
    for (int64_t k = 0; k < steps; k++, a.at += a.stride[0], b.at += b.stride[0], h.at += h.stride[0]) {
        NUMBER to[4];
        for (int i = 0; i < n; i++) to[i] = b.at[i * b.stride[2]];
        for (int j = 0; j < n; j++)
            for (int i = 0; i < n; i++) to[i] += EACH(a.at[i * a.stride[2] + j * a.stride[3]]) * s[j];
        for (int i = 0; i < n; i++) h.at[i * h.stride[2]] = s[i] = to[i];
    }
}

/* Few columns, one after the other in every step, so that A is read from memory once. */
static INLINE void NAME(walk_each)(TENSOR a, TENSOR b, TENSOR h, TENSOR start, dense_sizes d, int64_t width,
                                   const int is_conjugate) {
    const int64_t n = d.n;
    NUMBER *memory = ALIGNED(2 * (size_t)(n * width) * sizeof(NUMBER)), *s = memory, *to = memory + n * width;
    for (int64_t j = 0; j < width; j++)
        for (int64_t i = 0; i < n; i++) s[j * n + i] = start.at[i * start.stride[2] + j * start.stride[3]];
    for (int64_t k = 0; k < d.steps; k++, a.at += a.stride[0], b.at += b.stride[0], h.at += h.stride[0]) {
        for (int64_t j = 0; j < width; j++) {
            const NUMBER *before = s + j * n, *added = b.at + j * b.stride[3];
            NUMBER *now = to + j * n, *out = h.at + j * h.stride[3];
            for (int64_t i = 0; i < n; i++) now[i] = added[i * b.stride[2]];
            if (a.stride[3] == 1) {
                int64_t i = 0;
                for (; i + 4 <= n; i += 4) NAME(dots)(a.at + i * a.stride[2], a.stride[2], before, now + i, n, 4, is_conjugate);
                for (; i < n; i++) NAME(dots)(a.at + i * a.stride[2], a.stride[2], before, now + i, n, 1, is_conjugate);
            } else NAME(sums)(a.at, a.stride[3], before, now, n, is_conjugate);
            for (int64_t i = 0; i < n; i++) out[i * h.stride[2]] = now[i];
        }
        NUMBER *done = to;
        to = s, s = done;
    }
    free(memory);
}

static INLINE TENSOR NAME(column)(TENSOR x, int64_t outer, int64_t column) {
    x.at += outer * x.stride[1] + column * x.stride[3];
    return x;
}

static void NAME(dense)(TENSOR a, TENSOR b, TENSOR h, TENSOR start, dense_sizes d) {
    const int64_t wanted = (d.threads + d.outer - 1) / d.outer;
    int64_t most = ((d.columns + wanted - 1) / wanted + W - 1) / W * W; /* columns of a task */
    if (most > 4 * W) most = 4 * W;
    const int64_t count = (d.columns + most - 1) / most;
    PARALLEL(d.threads)
    for (int64_t task = 0; task < d.outer * count; task++) {
        const int64_t outer = task / count, first = task % count * most;
        const int64_t width = d.columns - first < most ? d.columns - first : most;
        TENSOR x = a, y = NAME(column)(b, outer, first), z = NAME(column)(h, outer, first);
        x.at += outer * x.stride[1];
        const TENSOR s = NAME(column)(start, outer, first);
#ifdef INTEGER
        if (d.columns >= LANES_FROM) {
            NAME(walk_lanes)(x, y, z, s, d, width);
            continue;
        }
        const int is_conjugate = 0;
#else
        const int is_conjugate = d.is_conjugate;
#endif
        if (d.n <= 4)
            for (int64_t j = 0; j < width; j++) {
                const TENSOR u = NAME(column)(y, 0, j), v = NAME(column)(z, 0, j), w = NAME(column)(s, 0, j);
                switch (d.n) {
                case 1: NAME(walk_small)(x, u, v, w, d.steps, 1, is_conjugate); break;
                case 2: NAME(walk_small)(x, u, v, w, d.steps, 2, is_conjugate); break;
                case 3: NAME(walk_small)(x, u, v, w, d.steps, 3, is_conjugate); break;
                default: NAME(walk_small)(x, u, v, w, d.steps, 4, is_conjugate);
                }
            }
        else if (is_conjugate) NAME(walk_each)(x, y, z, s, d, width, 1);
        else NAME(walk_each)(x, y, z, s, d, width, 0);
    }
}

#undef W
#undef EACH
#ifdef INTEGER
#undef VEC
#undef QUARTER
#undef Q
#undef AT
#undef AT_QUARTER
#undef LANES_FROM
#endif
