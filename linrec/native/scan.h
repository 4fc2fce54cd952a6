/* Diagonal scans, s[k] = a[k] s[k-1] + b[k], for one element type (NUMBER) and one instruction set.

   A tensor is a base pointer and strides in elements: time first, then `rank` outer axes, then lanes. Lanes and
   outer axes are independent of one another: a tile of lanes keeps its state in cache and walks time, so that every
   number is read and written once, in order. Strides may be zero (broadcast) or negative (time backward). */

static inline NUMBER *NAME(tile)(TENSOR x, tiling t, int64_t task) {
    int64_t outer = task / t.count;
    NUMBER *at = x.at + task % t.count * t.width * x.stride[t.rank + 1];
    for (int axis = t.rank - 1; axis >= 0; axis--) {
        at += outer % t.size[axis] * x.stride[axis + 1];
        outer /= t.size[axis];
    }
    return at;
}

/* May a result go past the caches (wide.h)? If it is large, and has whole lines in every step. */
static INLINE int NAME(is_streamed)(const NUMBER *h, tiling t, int64_t width, int64_t time, int64_t lane) {
    const int64_t size = (int64_t)sizeof(NUMBER);
    return lane == 1 && t.numbers * size >= STREAMED && (uintptr_t)h % 64 == 0 && time * size % 64 == 0 &&
           width * size % 64 == 0;
}

static INLINE void NAME(walk)(const NUMBER *restrict a, const NUMBER *restrict b, NUMBER *restrict h,
                              NUMBER *restrict s, int64_t width, int64_t steps, int64_t ta, int64_t tb, int64_t th,
                              int64_t la, int64_t lb, int64_t lh) {
    for (int64_t k = 0; k < steps; k++, a += ta, b += tb, h += th) {
        ONE_STEP();
        for (int64_t j = 0; j < width; j++) h[j * lh] = s[j] = a[j * la] * s[j] + b[j * lb];
    }
}

/* Lanes whose steps lie side by side: eight of them at a time, their states in registers. */
static INLINE void NAME(runs)(const NUMBER *restrict a, const NUMBER *restrict b, NUMBER *restrict h,
                              NUMBER *restrict s, int64_t steps, int64_t la, int64_t lb, int64_t lh) {
    NUMBER r[8];
    for (int i = 0; i < 8; i++) r[i] = s[i];
    for (int64_t k = 0; k < steps; k++)
        for (int i = 0; i < 8; i++) h[i * lh + k] = r[i] = a[i * la + k] * r[i] + b[i * lb + k];
    for (int i = 0; i < 8; i++) s[i] = r[i];
}

static INLINE void NAME(run_ends)(const NUMBER *restrict a, const NUMBER *restrict b, NUMBER *restrict p,
                                  NUMBER *restrict s, int64_t steps, int64_t la, int64_t lb) {
    NUMBER r[8], q[8];
    for (int i = 0; i < 8; i++) r[i] = s[i], q[i] = p[i];
    for (int64_t k = 0; k < steps; k++)
        for (int i = 0; i < 8; i++) {
            r[i] = a[i * la + k] * r[i] + b[i * lb + k];
            q[i] *= a[i * la + k];
        }
    for (int i = 0; i < 8; i++) s[i] = r[i], p[i] = q[i];
}

static void NAME(forward)(TENSOR a, TENSOR b, TENSOR h, TENSOR start, tiling t) {
    const int64_t la = a.stride[t.rank + 1], lb = b.stride[t.rank + 1], lh = h.stride[t.rank + 1];
    const int64_t ls = start.stride[t.rank + 1], ta = a.stride[0], tb = b.stride[0], th = h.stride[0];
    PARALLEL(t.threads)
    for (int64_t task = 0; task < t.tasks; task++) {
        _Alignas(64) NUMBER s[TILE];
        NUMBER *x = NAME(tile)(a, t, task), *y = NAME(tile)(b, t, task), *z = NAME(tile)(h, t, task);
        const NUMBER *first = NAME(tile)(start, t, task);
        const int64_t n = lanes_of(t, task);
        for (int64_t j = 0; j < n; j++) s[j] = first[j * ls];
#ifdef WIDE
        if (ta == 1 && tb == 1 && th == 1) {
            for (int64_t j = 0; j < n; j++) NAME(prefix)(x + j * la, y + j * lb, z + j * lh, s[j], t.steps);
            continue;
        }
#endif
        if (ta == 1 && tb == 1 && th == 1 && n % 8 == 0) {
            for (int64_t j = 0; j < n; j += 8) NAME(runs)(x + j * la, y + j * lb, z + j * lh, s + j, t.steps, la, lb, lh);
            continue;
        }
#if defined(WIDE) && defined(STREAM)
        if (lb == 1 && (la == 0 || la == 1) && NAME(is_streamed)(z, t, n, th, lh)) {
            if (la) NAME(walk_streamed)(x, y, z, s, n, t.steps, ta, tb, th, 1);
            else NAME(walk_streamed)(x, y, z, s, n, t.steps, ta, tb, th, 0);
            FENCE();
            continue;
        }
#endif
        /* the same walk, compiled for lanes that lie side by side */
        if (la == 1 && lb == 1 && lh == 1) NAME(walk)(x, y, z, s, n, t.steps, ta, tb, th, 1, 1, 1);
        else if (la == 0 && lb == 1 && lh == 1) NAME(walk)(x, y, z, s, n, t.steps, ta, tb, th, 0, 1, 1);
        else NAME(walk)(x, y, z, s, n, t.steps, ta, tb, th, la, lb, lh);
    }
}

/* The ends of runs alone: product = a[T-1] ... a[0], and the last state from a zero start. */
static void NAME(ends)(TENSOR a, TENSOR b, TENSOR product, TENSOR end, tiling t) {
    const int64_t la = a.stride[t.rank + 1], lb = b.stride[t.rank + 1];
    PARALLEL(t.threads)
    for (int64_t task = 0; task < t.tasks; task++) {
        NUMBER s[TILE], p[TILE], *pe = NAME(tile)(product, t, task), *se = NAME(tile)(end, t, task);
        const NUMBER *x = NAME(tile)(a, t, task), *y = NAME(tile)(b, t, task);
        const int64_t n = lanes_of(t, task);
        for (int64_t j = 0; j < n; j++) s[j] = 0, p[j] = 1;
        if (a.stride[0] == 1 && b.stride[0] == 1 && n % 8 == 0)
            for (int64_t j = 0; j < n; j += 8) NAME(run_ends)(x + j * la, y + j * lb, p + j, s + j, t.steps, la, lb);
        else
            for (int64_t k = 0; k < t.steps; k++, x += a.stride[0], y += b.stride[0])
                for (int64_t j = 0; j < n; j++) {
                    s[j] = x[j * la] * s[j] + y[j * lb];
                    p[j] *= x[j * la];
                }
        for (int64_t j = 0; j < n; j++) {
            pe[j * product.stride[t.rank + 1]] = p[j];
            se[j * end.stride[t.rank + 1]] = s[j];
        }
    }
}

/* One step back, with g the gradient of the states and s = conj(a[k+1]) db[k+1]:
       db[k] = g[k] + s,   da[k] = db[k] conj(s[k-1]).
   A coefficient with time stride zero is one number for all steps: its gradient is summed on the way. */
static INLINE void NAME(step_back)(const NUMBER *restrict a, const NUMBER *restrict g, const NUMBER *restrict before,
                                   NUMBER *restrict da, NUMBER *restrict db, NUMBER *restrict s, int64_t width,
                                   int64_t la, int64_t lg, int64_t lf, int64_t lda, int64_t ldb, const int is_sum) {
    for (int64_t j = 0; j < width; j++) {
        NUMBER d = g[j * lg] + s[j], e = d * CONJ(before[j * lf]);
        db[j * ldb] = d;
        da[j * lda] = is_sum ? da[j * lda] + e : e;
        s[j] = CONJ(a[j * la]) * d;
    }
}

static INLINE void NAME(walk_back)(const NUMBER *a, const NUMBER *g, const NUMBER *h, const NUMBER *first, NUMBER *da,
                                   NUMBER *db, NUMBER *s, int64_t width, int64_t steps, const int64_t *time, int64_t la,
                                   int64_t lg, int64_t lh, int64_t ls, int64_t lda, int64_t ldb, const int is_sum) {
    for (int64_t k = steps - 1; k > 0; k--) {
        ONE_STEP();
        NAME(step_back)(a + k * time[0], g + k * time[1], h + (k - 1) * time[2], da + k * time[3], db + k * time[4], s,
                        width, la, lg, lh, lda, ldb, is_sum);
    }
    NAME(step_back)(a, g, first, da, db, s, width, la, lg, ls, lda, ldb, is_sum);
}

static void NAME(backward)(TENSOR a, TENSOR g, TENSOR h, TENSOR start, TENSOR da,
                           TENSOR db, TENSOR ds, tiling t) {
    const int64_t time[5] = {a.stride[0], g.stride[0], h.stride[0], da.stride[0], db.stride[0]};
    const int lane = t.rank + 1;
    const int64_t la = a.stride[lane], lg = g.stride[lane], lh = h.stride[lane], ls = start.stride[lane];
    const int64_t lda = da.stride[lane], ldb = db.stride[lane];
    const int is_sum = time[3] == 0, is_plain = lg == 1 && lh == 1 && ldb == 1 && lda == 1;
    PARALLEL(t.threads)
    for (int64_t task = 0; task < t.tasks; task++) {
        _Alignas(64) NUMBER s[TILE];
        NUMBER *x = NAME(tile)(a, t, task), *y = NAME(tile)(g, t, task), *z = NAME(tile)(h, t, task);
        NUMBER *dx = NAME(tile)(da, t, task), *dy = NAME(tile)(db, t, task), *dz = NAME(tile)(ds, t, task);
        const NUMBER *first = NAME(tile)(start, t, task);
        const int64_t n = lanes_of(t, task), T = t.steps;
#ifdef WIDE
        if (time[0] == 1 && time[1] == 1 && time[2] == 1 && time[3] == 1 && time[4] == 1) {
            for (int64_t j = 0; j < n; j++)
                dz[j * ds.stride[lane]] = NAME(prefix_back)(x + j * la, y + j * lg, z + j * lh, first[j * ls],
                                                            dx + j * lda, dy + j * ldb, T);
            continue;
        }
#endif
        for (int64_t j = 0; j < n; j++) s[j] = 0;
        if (is_sum)
            for (int64_t j = 0; j < n; j++) dx[j * lda] = 0;
#if defined(WIDE) && defined(STREAM)
        if (is_plain && la == 1 && !is_sum && NAME(is_streamed)(dx, t, n, time[3], lda) &&
            NAME(is_streamed)(dy, t, n, time[4], ldb)) {
            NAME(walk_back_streamed)(x, y, z, dx, dy, s, n, T, time);
            FENCE();
            NAME(step_back)(x, y, first, dx, dy, s, n, 1, 1, ls, 1, 1, 0);
        } else
#endif
        if (is_plain && la == 1 && !is_sum) NAME(walk_back)(x, y, z, first, dx, dy, s, n, T, time, 1, 1, 1, ls, 1, 1, 0);
        else if (is_plain && la == 0 && !is_sum) NAME(walk_back)(x, y, z, first, dx, dy, s, n, T, time, 0, 1, 1, ls, 1, 1, 0);
        else if (is_plain && la == 1) NAME(walk_back)(x, y, z, first, dx, dy, s, n, T, time, 1, 1, 1, ls, 1, 1, 1);
        else NAME(walk_back)(x, y, z, first, dx, dy, s, n, T, time, la, lg, lh, ls, lda, ldb, is_sum);
        for (int64_t j = 0; j < n; j++) dz[j * ds.stride[lane]] = s[j];
    }
}
