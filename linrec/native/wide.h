/* Scans in whole vectors, for one real element type and one instruction set. */

#define LANES NAME(lanes)
#define PLACES NAME(places)
#define LOOSE NAME(loose)
typedef NUMBER LANES __attribute__((vector_size(LANE_BYTES)));
typedef NUMBER LOOSE __attribute__((vector_size(LANE_BYTES), aligned(sizeof(NUMBER)), may_alias));
typedef INTEGER PLACES __attribute__((vector_size(LANE_BYTES)));
#define N ((int)(LANE_BYTES / sizeof(NUMBER)))
#define AT(p) (*(const LOOSE *)(p))

#ifdef STREAM
/* Lanes side by side, results past the caches: for results so large that nothing of them would be there when they are
   read. Memory then moves two numbers in and one out; through the caches it would read the result's place as well. */
static INLINE void NAME(walk_streamed)(const NUMBER *a, const NUMBER *b, NUMBER *h, NUMBER *s, int64_t width,
                                       int64_t steps, int64_t ta, int64_t tb, int64_t th, const int la) {
    for (int64_t k = 0; k < steps; k++, a += ta, b += tb, h += th)
        for (int64_t j = 0; j < width; j += N) {
            LANES now = (la ? (LANES)AT(a + j) : (LANES){0} + a[0]) * *(LANES *)(s + j) + AT(b + j);
            *(LANES *)(s + j) = now;
            STREAM(h + j, now);
        }
}

/* The way back, but for step 0. */
static INLINE void NAME(walk_back_streamed)(const NUMBER *a, const NUMBER *g, const NUMBER *h, NUMBER *da, NUMBER *db,
                                            NUMBER *s, int64_t width, int64_t steps, const int64_t *time) {
    for (int64_t k = steps - 1; k > 0; k--) {
        const NUMBER *ak = a + k * time[0], *gk = g + k * time[1], *before = h + (k - 1) * time[2];
        NUMBER *to_a = da + k * time[3], *to_b = db + k * time[4];
        for (int64_t j = width - N; j >= 0; j -= N) { /* memory runs backward throughout */
            LANES d = AT(gk + j) + *(LANES *)(s + j);
            STREAM(to_b + j, d);
            STREAM(to_a + j, d * AT(before + j));
            *(LANES *)(s + j) = AT(ak + j) * d;
        }
    }
}
#endif

/* Steps side by side. A vector of N of them is scanned in its register: with (A, B) coefficients and offsets,
       B[i] += A[i] B[i-d],  A[i] *= A[i-d]    for d = 1, 2, 4, ..., N/2,
   after which h = B + A h[before]. Only that last line waits for the steps before it, so that a single lane runs at
   the speed of memory. Products of N coefficients may overflow where the loop does not: a block of steps in which
   anything is not finite is walked again, step by step. */

#define LEVELS 4
#define BLOCK 64 /* vectors between two looks at what is finite */

/* For each level the places of x[i-d], or x[i+d] on the way back; N and more: outside. */
static void NAME(places_of)(INTEGER *from, int is_back) {
    for (int d = 1; d < N; d *= 2, from += N)
        for (int i = 0; i < N; i++) {
            int at = is_back ? i + d : i - d;
            from[i] = at >= 0 && at < N ? at : N + i;
        }
}

/* N steps h[i] = a[i] h[i-1] + b[i] from the state `before`, or h[i] = a[i] h[i+1] + b[i] on the way back. */
static INLINE LANES NAME(steps)(LANES a, LANES b, NUMBER before, const INTEGER *from) {
    const LANES zero = {0}, one = zero + 1;
    for (int d = 1; d < N; d *= 2, from += N) {
        const PLACES at = *(const PLACES *)from;
        b += a * __builtin_shuffle(b, zero, at);
        a *= __builtin_shuffle(a, one, at);
    }
    return b + a * before;
}

static INLINE int NAME(is_zero)(LANES x) {
    NUMBER sum = 0;
    for (int i = 0; i < N; i++) sum += x[i];
    return sum == 0;
}

static void NAME(prefix)(const NUMBER *restrict a, const NUMBER *restrict b, NUMBER *restrict h, NUMBER s,
                         int64_t steps) {
    _Alignas(64) INTEGER from[LEVELS * N];
    NAME(places_of)(from, 0);
    int64_t k = 0;
    while (k + N <= steps) {
        const NUMBER before = s;
        const int64_t first = k;
        LANES found = {0};
        for (int i = 0; i < BLOCK && k + N <= steps; i++, k += N) {
            LANES now = NAME(steps)(AT(a + k), AT(b + k), s, from);
            *(LOOSE *)(h + k) = now;
            s = now[N - 1];
            found += now * 0;
        }
        if (NAME(is_zero)(found)) continue;
        s = before;
        for (int64_t j = first; j < k; j++) h[j] = s = a[j] * s + b[j];
    }
    for (; k < steps; k++) h[k] = s = a[k] * s + b[k];
}

/* db[k] = g[k] + a[k+1] db[k+1],  da[k] = db[k] h[k-1]; returns a[0] db[0], the gradient of the start. */
static NUMBER NAME(prefix_back)(const NUMBER *restrict a, const NUMBER *restrict g, const NUMBER *restrict h,
                                NUMBER start, NUMBER *restrict da, NUMBER *restrict db, int64_t steps) {
    _Alignas(64) INTEGER from[LEVELS * N];
    NAME(places_of)(from, 1);
    NUMBER d = 0, next = 0;
    int64_t k = steps;
    for (; k > 0 && (k == steps || k % N); k--) { /* the last step, and on to whole vectors */
        db[k - 1] = d = g[k - 1] + next * d;
        da[k - 1] = d * (k > 1 ? h[k - 2] : start);
        next = a[k - 1];
    }
    while (k > 0) {
        const NUMBER after = d;
        const int64_t end = k;
        LANES found = {0};
        for (int i = 0; i < BLOCK && k > 0; i++) {
            k -= N;
            LANES now = NAME(steps)(AT(a + k + 1), AT(g + k), d, from);
            *(LOOSE *)(db + k) = now;
            if (k) *(LOOSE *)(da + k) = now * AT(h + k - 1);
            else for (int j = 0; j < N; j++) da[j] = now[j] * (j ? h[j - 1] : start);
            d = now[0];
            found += now * 0;
        }
        if (NAME(is_zero)(found)) continue;
        d = after;
        for (int64_t j = end - 1; j >= k; j--) {
            db[j] = d = g[j] + a[j + 1] * d;
            da[j] = d * (j ? h[j - 1] : start);
        }
    }
    return a[0] * d;
}

#undef N
#undef AT
#undef LEVELS
#undef BLOCK
