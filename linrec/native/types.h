/* Every kernel for every element type; included once for each instruction set. */

#define NUMBER float
#define INTEGER int32_t
#define TYPE f32
#define CONJ(x) (x)
#ifdef WIDE
#include "wide.h"
#endif
#include "scan.h"
#include "matrix.h"
#include "dense.h"
#undef NUMBER
#undef INTEGER
#undef TYPE

#define NUMBER double
#define INTEGER int64_t
#define TYPE f64
#ifdef WIDE
#include "wide.h"
#endif
#include "scan.h"
#include "matrix.h"
#include "dense.h"
#undef NUMBER
#undef INTEGER
#undef TYPE
#undef CONJ

#pragma push_macro("WIDE")
#undef WIDE
#define NUMBER float complex
#define TYPE c64
#define CONJ(x) conjf(x)
#include "scan.h"
#include "dense.h"
#undef NUMBER
#undef TYPE
#undef CONJ

#define NUMBER double complex
#define TYPE c128
#define CONJ(x) conj(x)
#include "scan.h"
#include "dense.h"
#undef NUMBER
#undef TYPE
#undef CONJ
#pragma pop_macro("WIDE")

#define WORD uint32_t
#define TYPE w32
#include "layout.h"
#undef WORD
#undef TYPE

#define WORD uint64_t
#define TYPE w64
#include "layout.h"
#undef WORD
#undef TYPE
