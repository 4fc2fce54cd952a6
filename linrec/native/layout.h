/* Rows to columns, and the loudest number of each row, for words of one size and one instruction set.

   Numbers are words here: the bits of a floating-point number without its sign, as an integer, grow with its size, and
   infinity and NaN are above every other. */

#define EDGE 16

static void NAME(transpose)(const WORD *from, WORD *to, int64_t rows, int64_t columns, int64_t from_row, int64_t to_row) {
    for (int64_t i = 0; i < rows; i += EDGE)
        for (int64_t j = 0; j < columns; j += EDGE) {
            const int64_t m = rows - i < EDGE ? rows - i : EDGE, n = columns - j < EDGE ? columns - j : EDGE;
            WORD block[EDGE][EDGE];
            if (m == EDGE && n == EDGE) {
                for (int a = 0; a < EDGE; a++)
                    for (int b = 0; b < EDGE; b++) block[a][b] = from[(i + a) * from_row + j + b];
                for (int b = 0; b < EDGE; b++)
                    for (int a = 0; a < EDGE; a++) to[(j + b) * to_row + i + a] = block[a][b];
            } else {
                for (int64_t a = 0; a < m; a++)
                    for (int64_t b = 0; b < n; b++) to[(j + b) * to_row + i + a] = from[(i + a) * from_row + j + b];
            }
        }
}

/* to[i] = max(to[i], the bits of the loudest number of row i) */
static void NAME(loudest)(const WORD *restrict from, WORD *restrict to, int64_t rows, int64_t columns, int64_t from_row) {
    const WORD sign = (WORD)1 << (8 * sizeof(WORD) - 1);
    if (columns == 1 && from_row == 1) {
        for (int64_t i = 0; i < rows; i++) {
            WORD x = from[i] & ~sign;
            to[i] = x > to[i] ? x : to[i];
        }
        return;
    }
    for (int64_t i = 0; i < rows; i++, from += from_row) {
        WORD most = to[i];
        for (int64_t j = 0; j < columns; j++) {
            WORD x = from[j] & ~sign;
            most = x > most ? x : most;
        }
        to[i] = most;
    }
}

#undef EDGE
