"""The programs that the seeded bugs act on: plain loops, written as graphs."""

PROGRAMS = {
    # a diagonal decay with an initial state, an offset, a readout and a skip term
    "leaky": """
graph leaky(%x: f32[B, T, 4], %h0: f32[B, 4], %a: f32[4] = param "a", %W: f32[3, 4] = param "W", %c: f32[3] = param "c") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f32[B, 4] @t
  %p = mul(%h[-1], %a) : f32[B, 4] @t
  %h = add(%p, %u) : f32[B, 4] @t init(%h0)
  %s = mul(%u, 0.5) : f32[B, 4] @t
  %g = add(%h, %s) : f32[B, 4] @t
  %o = linear(%g, %W, %c) : f32[B, 3] @t
  %r = relu(%o) : f32[B, 3] @t
  %y = stack(%r, 1) : f32[B, T, 3]
  %e = last(%h) : f32[B, 4]
  return %y
  effect "h" %e
}
""",
    # a dense memory driven by one channel, read at the last step only
    "memory": """
graph memory(%x: f32[B, T, 1], %A: f32[4, 4] = buffer "A", %w: f32[4] = buffer "w", %W: f32[2, 4] = param "W", %c: f32[2] = param "c") {
  time t = T
  %zero = new_zeros(%x, [B, 4]) : f32[B, 4]
  %u = signal(%x, 1, 0, 1) : f32[B, 1] @t
  %f = relu(%u) : f32[B, 1] @t
  %b = mul(%f, %w) : f32[B, 4] @t
  %At = t(%A) : f32[4, 4] @t
  %p = matmul(%h[-1], %At) : f32[B, 4] @t
  %h = add(%p, %b) : f32[B, 4] @t init(%zero)
  %o = linear(%h, %W, %c) : f32[B, 2] @t
  %k = tanh(%o) : f32[B, 2] @t
  %y = last(%k) : f32[B, 2]
  return %y
}
""",
    # a gate computed from the input, and a state that every step reads
    "gated": """
graph gated(%x: f32[B, T, 4], %G: f32[4, 4] = param "G", %g: f32[4] = param "g") {
  time t = T
  %zero = new_zeros(%x, [B, 4]) : f32[B, 4]
  %u = signal(%x, 1, 0, 1) : f32[B, 4] @t
  %l = linear(%u, %G, %g) : f32[B, 4] @t
  %z = sigmoid(%l) : f32[B, 4] @t
  %n = rsub(%z, 1) : f32[B, 4] @t
  %d = sub(%u, %z) : f32[B, 4] @t
  %q = mul(%n, %d) : f32[B, 4] @t
  %p = mul(%z, %h[-1]) : f32[B, 4] @t
  %h = add(%p, %q) : f32[B, 4] @t init(%zero)
  %k = add(%h, %u) : f32[B, 4] @t
  %y = stack(%k, 1) : f32[B, T, 4]
  return %y
}
""",
    # a loop from the end to the start, as advantages are estimated
    "backward": """
graph backward(%r: f32[T, B], %v: f32[T + 1, B], %m: f32[T, B]) {
  time t = T backward
  %zero = new_zeros(%r, [B]) : f32[B]
  %a = signal(%r, 0, 0, 1) : f32[B] @t
  %v0 = signal(%v, 0, 0, 1) : f32[B] @t
  %v1 = signal(%v, 0, 1, 1) : f32[B] @t
  %k = signal(%m, 0, 0, 1) : f32[B] @t
  %n = mul(%v1, %k) : f32[B] @t
  %s = add(%a, %n, alpha=0.99) : f32[B] @t
  %s2 = add(%a, %n, alpha=0.5) : f32[B] @t
  %d = sub(%s, %v0) : f32[B] @t
  %w = mul(%k, 0.95) : f32[B] @t
  %p = mul(%w, %h[-1]) : f32[B] @t
  %h = add(%d, %p) : f32[B] @t init(%zero)
  %y = stack(%h, 0) : f32[T, B]
  %z = stack(%s2, 0) : f32[T, B]
  %f = last(%h) : f32[B]
  return %y, %z, %f
}
""",
    # order two: the step reads two steps back, and a difference is taken both ways
    "resonator": """
graph resonator(%x: f32[B, T], %h1: f32[B], %h2: f32[B]) {
  time t = T
  %u = signal(%x, 1, 0, 1) : f32[B] @t
  %p = mul(%h[-1], 1.5) : f32[B] @t
  %q = mul(%h[-2], 0.75) : f32[B] @t
  %s = sub(%p, %q) : f32[B] @t
  %h = add(%s, %u) : f32[B] @t init(%h1, %h2)
  %i = sub(%h, %u) : f32[B] @t
  %j = sub(%u, %h) : f32[B] @t
  %k = mul(%i, 2.0) : f32[B] @t
  %l = add(%k, %j) : f32[B] @t
  %y = stack(%l, 1) : f32[B, T]
  return %y
}
""",
    # a state that is not linear, one that is cut from its gradient, and a linear one between them
    "mixed": """
graph mixed(%x: f32[B, T, 4], %U: f32[4, 4] = param "U") {
  time t = T
  %zero = new_zeros(%x, [B, 4]) : f32[B, 4]
  %u = signal(%x, 1, 0, 1) : f32[B, 4] @t
  %m = matmul(%n[-1], %U) : f32[B, 4] @t
  %w = add(%m, %u) : f32[B, 4] @t
  %n = tanh(%w) : f32[B, 4] @t init(%zero)
  %p = mul(%h[-1], 0.5) : f32[B, 4] @t
  %h = add(%p, %n) : f32[B, 4] @t init(%zero)
  %c = detach(%k[-1]) : f32[B, 4] @t
  %v = mul(%c, 0.5) : f32[B, 4] @t
  %k = add(%v, %u) : f32[B, 4] @t init(%zero)
  %o = add(%h, %k) : f32[B, 4] @t
  %y = stack(%o, 1) : f32[B, T, 4]
  return %y
}
""",
    # complex poles
    "rotation": """
graph rotation(%x: c64[B, T, 3], %h0: c64[B, 3], %a: c64[3] = param "a", %g: c64[B, T, 3]) {
  time t = T
  %u = signal(%x, 1, 0, 1) : c64[B, 3] @t
  %k = signal(%g, 1, 0, 1) : c64[B, 3] @t
  %q = mul(%k, %a) : c64[B, 3] @t
  %p = mul(%h[-1], %q) : c64[B, 3] @t
  %h = add(%p, %u) : c64[B, 3] @t init(%h0)
  %o = conj(%h) : c64[B, 3] @t
  %y = stack(%o, 1) : c64[B, T, 3]
  return %y
}
""",
    # a dense step that varies over time: the delta rule on a vector
    "delta": """
graph delta(%x: f32[B, T, 3], %k: f32[B, T, 3], %b: f32[B, T]) {
  time t = T
  %zero = new_zeros(%x, [B, 3]) : f32[B, 3]
  %u = signal(%x, 1, 0, 1) : f32[B, 3] @t
  %v = signal(%k, 1, 0, 1) : f32[B, 3] @t
  %c = signal(%b, 1, 0, 1) : f32[B] @t
  %r = einsum("bi,bi->b", [%h[-1], %v]) : f32[B] @t
  %s = mul(%r, %c) : f32[B] @t
  %o = einsum("b,bi->bi", [%s, %v]) : f32[B, 3] @t
  %d = sub(%h[-1], %o) : f32[B, 3] @t
  %h = add(%d, %u) : f32[B, 3] @t init(%zero)
  %y = stack(%h, 1) : f32[B, T, 3]
  return %y
}
""",
}
