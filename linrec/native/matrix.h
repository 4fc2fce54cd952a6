/* Matrix states, one column tile at a time, with the state in cache:

       y_i[t] = v_i[t] + w_i[t]^T S[t-1],     S[t] = a[t] * S[t-1] + sum_i u_i[t] y_i[t]^T,     o_m[t] = q_m[t]^T S[t or t-1]

   S is (K, V); a is (K or 1, V or 1); u, w, q are (K), y, v, o are (V). Columns of S do not depend on one another, so
   the forward walk keeps V in lanes and never sums across them. The backward walk keeps K in lanes, where all gradients
   but those of y are sums over rows. It recomputes the states of a chunk from the one saved before the chunk: the
   states of all steps are never stored. */

#define VEC NAME(vec)
#define HALF NAME(half)
#define QUARTER NAME(quarter)
typedef NUMBER VEC __attribute__((vector_size(64)));
typedef NUMBER HALF __attribute__((vector_size(32)));
typedef NUMBER QUARTER __attribute__((vector_size(16)));
#define W ((int)(64 / sizeof(NUMBER)))
#define MOST 4 /* vectors in a column tile */

/* The operand at one outer index: from here on only time and its own axes move. */
static INLINE OPERAND NAME(at)(OPERAND x, const walk *c, int64_t outer) {
    if (!x.at) return x;
    for (int axis = c->rank - 1; axis >= 0; axis--) {
        x.at += outer % c->size[axis] * x.stride[axis + 1];
        outer /= c->size[axis];
    }
    return x;
}

#define STEP(x, t) ((x).at + (t) * (x).stride[0])

static INLINE void NAME(load)(VEC *to, const NUMBER *from, int64_t n, int nv) {
    NUMBER *x = (NUMBER *)to;
    for (int64_t j = 0; j < n; j++) x[j] = from[j];
    for (int64_t j = n; j < nv * W; j++) x[j] = 0;
}

static INLINE NUMBER NAME(total)(VEC x) {
    HALF h = ((HALF *)&x)[0] + ((HALF *)&x)[1];
    QUARTER q = ((QUARTER *)&h)[0] + ((QUARTER *)&h)[1];
    NUMBER sum = q[0] + q[1];
    for (int j = 2; j < W / 4; j += 2) sum += q[j] + q[j + 1];
    return sum;
}

/* sum_k x[k] S[k]: a row vector */
static INLINE void NAME(contract)(VEC *to, const NUMBER *x, const VEC *s, int64_t K, int nv) {
    VEC sum[MOST];
    for (int j = 0; j < nv; j++) sum[j] = to[j];
    for (int64_t k = 0; k < K; k++)
        for (int j = 0; j < nv; j++) sum[j] += x[k] * s[k * nv + j];
    for (int j = 0; j < nv; j++) to[j] = sum[j];
}

static INLINE void NAME(columns)(const walk *c, const OPERAND *all, int64_t outer, int64_t first, int64_t width,
                                 const int nv, const int R, const int is_one_read) {
    const int64_t K = c->K, V = c->V;
    OPERAND x[8 * MOST_UPDATES];
    for (int i = 0; i < 3 + 4 * c->R + 2 * c->M; i++) x[i] = NAME(at)(all[i], c, outer);
    const OPERAND decay = x[0], *left = x + 1, *inner = left + c->R, *value = inner + c->R, *query = value + c->R;
    const OPERAND *out = query + c->M, start = out[c->M], final = out[c->M + 1], *kept = out + c->M + 2;
    NUMBER *saved = c->saved;
    const int64_t dk = decay.stride[c->rank + 1], dv = decay.stride[c->rank + 2];
    VEC *s = ALIGNED((size_t)(K + c->R + 2) * nv * sizeof(VEC)), *y = s + K * nv, *o = y + c->R * nv, *d = o + nv;
    const NUMBER *s0 = start.at + first;
    for (int64_t k = 0; k < K; k++) NAME(load)(s + k * nv, s0 + k * V, width, nv);
    for (int64_t t = 0; t < c->steps; t++) {
        if (saved && t % c->chunk == 0) {
            NUMBER *to = saved + ((t / c->chunk) * c->outer + outer) * K * V + first;
            for (int64_t k = 0; k < K; k++)
                for (int64_t j = 0; j < width; j++) to[k * V + j] = ((NUMBER *)(s + k * nv))[j];
        }
        for (int i = 0; i < R; i++) {
            if (value[i].at) NAME(load)(y + i * nv, STEP(value[i], t) + first, width, nv);
            else for (int j = 0; j < nv; j++) y[i * nv + j] = (VEC){0};
            if (inner[i].at) NAME(contract)(y + i * nv, STEP(inner[i], t), s, K, nv);
            if (saved && inner[i].at) {
                NUMBER *to = STEP(kept[i], t) + first;
                for (int64_t j = 0; j < width; j++) to[j] = ((NUMBER *)(y + i * nv))[j];
            }
        }
        for (int pass = 1; pass >= 0; pass--) { /* reads before the step, the step, reads after it */
            for (int m = 0; m < c->M; m++) {
                if (c->delay[m] != pass || (is_one_read && pass == 0)) continue;
                for (int j = 0; j < nv; j++) o[j] = (VEC){0};
                NAME(contract)(o, STEP(query[m], t), s, K, nv);
                NUMBER *to = STEP(out[m], t) + first;
                for (int64_t j = 0; j < width; j++) to[j] = ((NUMBER *)o)[j];
            }
            if (pass == 0) break;
            const NUMBER *u[8], *q = is_one_read ? STEP(query[0], t) : NULL;
            for (int i = 0; i < R; i++) u[i] = STEP(left[i], t);
            const NUMBER *at = decay.at ? STEP(decay, t) : NULL;
            VEC sum[MOST], z[MOST];
            for (int j = 0; j < nv; j++) sum[j] = (VEC){0}, z[j] = y[j];
            for (int64_t k = 0; k < K; k++) {
                VEC *row = s + k * nv;
                if (at && dv) {
                    for (int64_t j = 0; j < nv * W; j++) ((NUMBER *)d)[j] = j < width ? at[k * dk + (first + j) * dv] : 0;
                    for (int j = 0; j < nv; j++) row[j] *= d[j];
                } else if (at) {
                    for (int j = 0; j < nv; j++) row[j] *= at[k * dk];
                }
                for (int j = 0; j < nv; j++) row[j] += u[0][k] * z[j];
                for (int i = 1; i < R; i++)
                    for (int j = 0; j < nv; j++) row[j] += u[i][k] * y[i * nv + j];
                if (is_one_read)
                    for (int j = 0; j < nv; j++) sum[j] += q[k] * row[j];
            }
            if (is_one_read) {
                NUMBER *to = STEP(out[0], t) + first;
                for (int j = 0; j < nv; j++) o[j] = sum[j];
                for (int64_t j = 0; j < width; j++) to[j] = ((NUMBER *)o)[j];
            }
        }
    }
    NUMBER *end = final.at + first;
    for (int64_t k = 0; k < K; k++)
        for (int64_t j = 0; j < width; j++) end[k * V + j] = ((NUMBER *)(s + k * nv))[j];
    free(s);
}

static void NAME(matrix_forward)(const walk *c, const OPERAND *x) {
    const int64_t width = MOST * W, tiles = (c->V + width - 1) / width;
    const int is_one_read = c->M == 1 && c->delay[0] == 0;
    PARALLEL(c->threads)
    for (int64_t task = 0; task < c->outer * tiles; task++) {
        int64_t first = task % tiles * width, n = first + width < c->V ? width : c->V - first, outer = task / tiles;
        int nv = (int)((n + W - 1) / W);
        if (c->R == 1 && is_one_read && nv == 4) NAME(columns)(c, x, outer, first, n, 4, 1, 1);
        else if (c->R == 1 && is_one_read && nv == 2) NAME(columns)(c, x, outer, first, n, 2, 1, 1);
        else if (c->R == 1 && nv == 4) NAME(columns)(c, x, outer, first, n, 4, 1, is_one_read);
        else NAME(columns)(c, x, outer, first, n, nv, c->R, is_one_read);
    }
}

/* One step back for one update, one read after it, and at most four vectors of K: all sums in registers. */
static INLINE void NAME(step_back_small)(VEC *ds, const VEC *old, const VEC *new, const VEC *u_, const VEC *w_,
                                         const VEC *q_, const VEC *a_, VEC *du_, VEC *dw_, VEC *dq_, VEC *da_,
                                         const NUMBER *go, const NUMBER *y, NUMBER *gv, int64_t V, const int nk,
                                         const int is_row, const int is_inner) {
    VEC u[4], w[4], q[4], a[4], du[4], dw[4], dq[4], da[4], e[4];
    for (int j = 0; j < nk; j++) {
        u[j] = u_[j], q[j] = q_[j], du[j] = dw[j] = dq[j] = da[j] = (VEC){0};
        if (is_row) a[j] = a_[j];
        if (is_inner) w[j] = w_[j];
    }
    for (int64_t v = 0; v < V; v++, ds += nk, old += nk, new += nk) {
        VEC sum = {0};
        for (int j = 0; j < nk; j++) {
            e[j] = ds[j] + q[j] * go[v];
            dq[j] += new[j] * go[v];
            sum += u[j] * e[j];
            du[j] += e[j] * y[v];
            if (is_row) {
                da[j] += e[j] * old[j];
                e[j] *= a[j];
            }
        }
        NUMBER dy = NAME(total)(sum);
        if (gv) gv[v] = dy;
        for (int j = 0; j < nk; j++) {
            if (is_inner) {
                e[j] += w[j] * dy;
                dw[j] += old[j] * dy;
            }
            ds[j] = e[j];
        }
    }
    for (int j = 0; j < nk; j++) {
        du_[j] = du[j], dq_[j] = dq[j];
        if (is_row) da_[j] = da[j];
        if (is_inner) dw_[j] = dw[j];
    }
}

/* One outer index, all steps back. Gradients lie as `x` does: decay, left, inner, value, query, (skipped), start. */
static INLINE void NAME(rows_back)(const walk *c, const OPERAND *all, const OPERAND *grads, int64_t outer, const int R,
                                   const int M, const int is_after) {
    const int64_t K = c->K, V = c->V, nk = (K + W - 1) / W;
    OPERAND x[8 * MOST_UPDATES], g[4 * MOST_UPDATES + 2];
    for (int i = 0; i < 3 + 4 * c->R + 2 * c->M; i++) x[i] = NAME(at)(all[i], c, outer);
    for (int i = 0; i < 2 + 3 * c->R + c->M; i++) g[i] = NAME(at)(grads[i], c, outer);
    const OPERAND decay = x[0], *left = x + 1, *inner = left + c->R, *value = inner + c->R, *query = value + c->R;
    const OPERAND *out = query + c->M, *kept = out + c->M + 2;
    const OPERAND d_decay = g[0], *d_left = g + 1, *d_inner = d_left + c->R, *d_value = d_inner + c->R;
    const OPERAND *d_query = d_value + c->R, d_start = d_query[c->M];
    const int64_t dk = decay.stride[c->rank + 1], dv = decay.stride[c->rank + 2];
    const int is_full = decay.at && dv && dk, is_column = decay.at && dv && !dk, is_row = decay.at && !dv;
    VEC *memory = ALIGNED(((c->chunk + 2) * V + 4 * (c->R + c->M + 1)) * nk * sizeof(VEC));
    VEC *states = memory, *ds = states + (c->chunk + 1) * V * nk, *u = ds + V * nk, *w = u + c->R * nk, *q = w + c->R * nk;
    VEC *du = q + c->M * nk, *dw = du + c->R * nk, *dq = dw + c->R * nk, *a = dq + c->M * nk, *da = a + nk;
    NUMBER dy[8];
    for (int64_t j = 0; j < V * nk; j++) ds[j] = (VEC){0};
    for (int64_t j = 0; j < nk; j++) a[j] = (VEC){0}; /* lanes past K stay zero everywhere */
    if (c->d_final) /* the gradient of the last state, (outer, K, V) */
        for (int64_t k = 0; k < K; k++)
            for (int64_t v = 0; v < V; v++) ((NUMBER *)(ds + v * nk))[k] = ((NUMBER *)c->d_final)[(outer * K + k) * V + v];
    for (int64_t last = c->steps; last > 0;) {
        const int64_t from = (last - 1) / c->chunk * c->chunk;
        const NUMBER *s0 = (NUMBER *)c->saved + ((from / c->chunk) * c->outer + outer) * K * V;
        for (int64_t j = 0; j < V * nk; j++) states[j] = (VEC){0};
        for (int64_t k = 0; k < K; k++)
            for (int64_t v = 0; v < V; v++) ((NUMBER *)(states + v * nk))[k] = s0[k * V + v];
        for (int64_t t = from; t < last; t++) { /* the chunk's states again */
            const VEC *old = states + (t - from) * V * nk;
            VEC *new = states + (t - from + 1) * V * nk;
            const NUMBER *at = decay.at ? STEP(decay, t) : NULL, *y[8];
            for (int64_t k = 0; k < K && is_row; k++) ((NUMBER *)a)[k] = at[k * dk];
            for (int i = 0; i < R; i++) {
                NAME(load)(u + i * nk, STEP(left[i], t), K, (int)nk);
                const OPERAND from_ = inner[i].at ? kept[i] : value[i];
                y[i] = STEP(from_, t);
            }
            for (int64_t v = 0; v < V; v++) {
                if (is_full)
                    for (int64_t k = 0; k < K; k++) ((NUMBER *)a)[k] = at[k * dk + v * dv];
                for (int64_t j = 0; j < nk; j++) {
                    VEC s = old[v * nk + j];
                    if (is_row || is_full) s *= a[j];
                    else if (is_column) s *= at[v * dv];
                    for (int i = 0; i < R; i++) s += u[i * nk + j] * y[i][v];
                    new[v * nk + j] = s;
                }
            }
        }
        for (int64_t t = last - 1; t >= from; t--) {
            const NUMBER *at = decay.at ? STEP(decay, t) : NULL, *y[8], *go[8];
            NUMBER *gv[8], *ga = decay.at ? STEP(d_decay, t) : NULL;
            for (int64_t k = 0; k < K && is_row; k++) ((NUMBER *)a)[k] = at[k * dk];
            for (int i = 0; i < R; i++) {
                NAME(load)(u + i * nk, STEP(left[i], t), K, (int)nk);
                if (inner[i].at) NAME(load)(w + i * nk, STEP(inner[i], t), K, (int)nk);
                const OPERAND from_ = inner[i].at ? kept[i] : value[i];
                y[i] = STEP(from_, t);
                gv[i] = value[i].at ? STEP(d_value[i], t) : NULL;
            }
            for (int m = 0; m < M; m++) {
                NAME(load)(q + m * nk, STEP(query[m], t), K, (int)nk);
                go[m] = STEP(out[m], t);
            }
            for (int64_t j = 0; j < (2 * c->R + c->M) * nk; j++) du[j] = (VEC){0};
            for (int64_t j = 0; j < nk; j++) da[j] = (VEC){0};
            const VEC *before = states + (t - from) * V * nk;
            if (R == 1 && M == 1 && is_after && nk == 4 && is_row && !inner[0].at)
                NAME(step_back_small)(ds, before, before + V * 4, u, w, q, a, du, dw, dq, da, go[0], y[0], gv[0], V, 4, 1, 0);
            else if (R == 1 && M == 1 && is_after && nk == 4 && is_row)
                NAME(step_back_small)(ds, before, before + V * 4, u, w, q, a, du, dw, dq, da, go[0], y[0], gv[0], V, 4, 1, 1);
            else if (R == 1 && M == 1 && is_after && nk == 4 && !decay.at && !inner[0].at)
                NAME(step_back_small)(ds, before, before + V * 4, u, w, q, a, du, dw, dq, da, go[0], y[0], gv[0], V, 4, 0, 0);
            else if (R == 1 && M == 1 && is_after && nk == 4 && !decay.at)
                NAME(step_back_small)(ds, before, before + V * 4, u, w, q, a, du, dw, dq, da, go[0], y[0], gv[0], V, 4, 0, 1);
            else for (int64_t v = 0; v < V; v++) {
                VEC *d = ds + v * nk, sums[8], column = (VEC){0};
                const VEC *old = states + ((t - from) * V + v) * nk, *new = old + V * nk;
                for (int i = 0; i < R; i++) sums[i] = (VEC){0};
                if (is_full)
                    for (int64_t k = 0; k < K; k++) ((NUMBER *)a)[k] = at[k * dk + v * dv];
                for (int64_t j = 0; j < nk; j++) {
                    VEC e = d[j];
                    for (int m = 0; m < M; m++)
                        if (is_after || !c->delay[m]) {
                            e += q[m * nk + j] * go[m][v];
                            dq[m * nk + j] += new[j] * go[m][v];
                        }
                    for (int i = 0; i < R; i++) {
                        sums[i] += u[i * nk + j] * e;
                        du[i * nk + j] += e * y[i][v];
                    }
                    if (is_row) {
                        da[j] += e * old[j];
                        e *= a[j];
                    } else if (is_column) {
                        column += e * old[j];
                        e *= at[v * dv];
                    } else if (is_full) {
                        VEC each = e * old[j];
                        for (int64_t k = j * W; k < K && k < (j + 1) * W; k++) ga[k * V + v] = each[k - j * W];
                        e *= a[j];
                    }
                    d[j] = e;
                }
                if (is_column) ga[v] = NAME(total)(column);
                for (int i = 0; i < R; i++) {
                    dy[i] = NAME(total)(sums[i]);
                    if (gv[i]) gv[i][v] = dy[i];
                    if (inner[i].at)
                        for (int64_t j = 0; j < nk; j++) {
                            d[j] += w[i * nk + j] * dy[i];
                            dw[i * nk + j] += old[j] * dy[i];
                        }
                }
                for (int m = 0; m < M && !is_after; m++)
                    if (c->delay[m])
                        for (int64_t j = 0; j < nk; j++) {
                            d[j] += q[m * nk + j] * go[m][v];
                            dq[m * nk + j] += old[j] * go[m][v];
                        }
            }
            for (int64_t k = 0; k < K; k++) {
                for (int i = 0; i < R; i++) {
                    STEP(d_left[i], t)[k] = ((NUMBER *)(du + i * nk))[k];
                    if (inner[i].at)
                        STEP(d_inner[i], t)[k] = ((NUMBER *)(dw + i * nk))[k];
                }
                for (int m = 0; m < M; m++)
                    STEP(d_query[m], t)[k] = ((NUMBER *)(dq + m * nk))[k];
                if (is_row && dk) ga[k] = ((NUMBER *)da)[k];
            }
            if (is_row && !dk) {
                VEC all = da[0];
                for (int64_t j = 1; j < nk; j++) all += da[j];
                ga[0] = NAME(total)(all);
            }
        }
        last = from;
    }
    NUMBER *end = d_start.at;
    for (int64_t k = 0; k < K; k++)
        for (int64_t v = 0; v < V; v++) end[k * V + v] = ((NUMBER *)(ds + v * nk))[k];
    free(memory);
}

static void NAME(matrix_backward)(const walk *c, const OPERAND *x, const OPERAND *g) {
    int is_after = 1;
    for (int m = 0; m < c->M; m++) is_after &= !c->delay[m];
    PARALLEL(c->threads)
    for (int64_t outer = 0; outer < c->outer; outer++) {
        if (c->R == 1 && c->M == 1 && is_after) NAME(rows_back)(c, x, g, outer, 1, 1, 1);
        else NAME(rows_back)(c, x, g, outer, c->R, c->M, is_after);
    }
}

#undef STEP
#undef VEC
#undef HALF
#undef QUARTER
#undef W
#undef MOST
