/* Every kernel for every element type; included once for each instruction set. */

#define NUMBER float
#define TYPE f32
#define CONJ(x) (x)
#include "scan.h"
#include "matrix.h"
#undef NUMBER
#undef TYPE

#define NUMBER double
#define TYPE f64
#include "scan.h"
#include "matrix.h"
#undef NUMBER
#undef TYPE
#undef CONJ

#define NUMBER float complex
#define TYPE c64
#define CONJ(x) conjf(x)
#include "scan.h"
#undef NUMBER
#undef TYPE
#undef CONJ

#define NUMBER double complex
#define TYPE c128
#define CONJ(x) conj(x)
#include "scan.h"
#undef NUMBER
#undef TYPE
#undef CONJ
