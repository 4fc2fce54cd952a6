"""The programs that the bugs of others.py act on: loops of other shapes than those of programs.py, written as graphs."""

OTHER_PROGRAMS = {
    # state space with matrices that are all square, so that a transpose fits everywhere; a skip term and a bias
    "plant": """
graph plant(%x: f64[B, T, 3], %h0: f64[B, 3], %A: f64[3, 3] = param "A", %G: f64[3, 3] = param "G", %C: f64[3, 3] = param "C", %D: f64[3, 3] = param "D", %e: f64[3] = param "e") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B, 3] @t
  %w = linear(%u, %G) : f64[B, 3] @t
  %p = linear(%h[-1], %A) : f64[B, 3] @t
  %h = add(%p, %w) : f64[B, 3] @t init(%h0)
  %o = linear(%h, %C) : f64[B, 3] @t
  %s = linear(%u, %D, %e) : f64[B, 3] @t
  %z = add(%o, %s) : f64[B, 3] @t
  %y = stack(%z, 1) : f64[B, T, 3]
  %f = last(%h) : f64[B, 3]
  return %y, %f
}
""",
    # a leaky integrator with a constant current, read before it is updated
    "neuron": """
graph neuron(%x: f32[B, T, 4], %h0: f32[B, 4], %d: f32[4] = param "d", %b: f32[4] = param "b") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f32[B, 4] @t
  %a = sigmoid(%d) : f32[4] @t
  %a2 = sigmoid(%d) : f32[4] @t
  %r = rsub(%a2, 1) : f32[4] @t
  %i = mul(%u, %r) : f32[B, 4] @t
  %j = add(%i, %b) : f32[B, 4] @t
  %p = mul(%h[-1], %a) : f32[B, 4] @t
  %h = add(%p, %j) : f32[B, 4] @t init(%h0)
  %o = mul(%h[-1], 2.0) : f32[B, 4] @t
  %y = stack(%o, 1) : f32[B, T, 4]
  %f = last(%h) : f32[B, 4]
  return %y
  effect "v" %f
}
""",
    # a gated unit with its gates from the input, an initial state, an output gate and a residual
    "gru": """
graph gru(%x: f64[B, T, 2], %h0: f64[B, 2], %U: f64[2, 2] = param "U", %V: f64[2, 2] = param "V", %o: f64[2] = param "o") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B, 2] @t
  %k = linear(%u, %U) : f64[B, 2] @t
  %z = sigmoid(%k) : f64[B, 2] @t
  %m = linear(%u, %V) : f64[B, 2] @t
  %c = tanh(%m) : f64[B, 2] @t
  %n = rsub(%z, 1) : f64[B, 2] @t
  %p = mul(%n, %h[-1]) : f64[B, 2] @t
  %q = mul(%z, %c) : f64[B, 2] @t
  %h = add(%p, %q) : f64[B, 2] @t init(%h0)
  %v = mul(%h, %o) : f64[B, 2] @t
  %r = add(%v, %u) : f64[B, 2] @t
  %y = stack(%r, 1) : f64[B, T, 2]
  %f = last(%h) : f64[B, 2]
  return %y, %f
}
""",
    # complex modes with learned poles and a learned complex readout, of which the real part is seen
    "modes": """
graph modes(%x: c128[B, T, 3], %a: c128[3] = param "a", %b: c128[3] = param "b", %c: c128[3] = param "c") {
  time t = T
  %zero = new_zeros(%x, [B, 3]) : c128[B, 3]
  %u = signal(%x, 1, 0, 1) : c128[B, 3] @t
  %w = mul(%u, %b) : c128[B, 3] @t
  %p = mul(%h[-1], %a) : c128[B, 3] @t
  %h = add(%p, %w) : c128[B, 3] @t init(%zero)
  %o = mul(%h, %c) : c128[B, 3] @t
  %r = real(%o) : f64[B, 3] @t
  %y = stack(%r, 1) : f64[B, T, 3]
  return %y
}
""",
    # returns from the end of an episode, with terminal flags and the value after the last step
    "returns": """
graph returns(%r: f64[B, T], %d: f64[B, T], %v: f64[B, T + 1], %g: f64[] = param "g") {
  time t = T backward
  %end = select(%v, 1, T) : f64[B]
  %a = signal(%r, 1, 0, 1) : f64[B] @t
  %m = signal(%d, 1, 0, 1) : f64[B] @t
  %v0 = signal(%v, 1, 0, 1) : f64[B] @t
  %k = rsub(%m, 1) : f64[B] @t
  %q = mul(%k, %g) : f64[B] @t
  %p = mul(%q, %h[-1]) : f64[B] @t
  %h = add(%a, %p) : f64[B] @t init(%end)
  %s = sub(%h, %v0) : f64[B] @t
  %y = stack(%s, 1) : f64[B, T]
  %f = last(%h) : f64[B]
  return %y, %f
}
""",
    # a recursive filter of order two with one zero, whose state is handed on
    "biquad": """
graph biquad(%x: f64[B, T], %h1: f64[B], %h2: f64[B], %u1: f64[B], %a: f64[2] = param "a", %b: f64[2] = param "b") {
  time t = T
  %a1 = select(%a, 0, 0) : f64[]
  %a2 = select(%a, 0, 1) : f64[]
  %b0 = select(%b, 0, 0) : f64[]
  %b1 = select(%b, 0, 1) : f64[]
  %i = signal(%x, 1, 0, 1) : f64[B] @t
  %u = alias(%i) : f64[B] @t init(%u1)
  %p = mul(%h[-1], %a1) : f64[B] @t
  %q = mul(%h[-2], %a2) : f64[B] @t
  %s = add(%p, %q) : f64[B] @t
  %v = mul(%u, %b0) : f64[B] @t
  %w = mul(%u[-1], %b1) : f64[B] @t
  %d = add(%v, %w) : f64[B] @t
  %h = add(%s, %d) : f64[B] @t init(%h1, %h2)
  %y = stack(%h, 1) : f64[B, T]
  %c1 = carry(%h, 1) : f64[B]
  %c2 = carry(%h, 2) : f64[B]
  return %y, %c1, %c2
}
""",
    # a filter of order two without a zero: one impulse response
    "echo": """
graph echo(%x: f64[B, T], %h1: f64[B], %h2: f64[B]) {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B] @t
  %p = mul(%h[-1], 0.5) : f64[B] @t
  %q = mul(%h[-2], 0.25) : f64[B] @t
  %s = add(%p, %q) : f64[B] @t
  %h = add(%s, %u) : f64[B] @t init(%h1, %h2)
  %y = stack(%h, 1) : f64[B, T]
  return %y
}
""",
    # linear attention with a decay per key, read by a query at every step
    "attention": """
graph attention(%k: f64[B, T, 2], %v: f64[B, T, 2], %q: f64[B, T, 2], %g: f64[B, T, 2], %S0: f64[B, 2, 2]) {
  time t = T
  %kt = signal(%k, 1, 0, 1) : f64[B, 2] @t
  %vt = signal(%v, 1, 0, 1) : f64[B, 2] @t
  %qt = signal(%q, 1, 0, 1) : f64[B, 2] @t
  %gt = signal(%g, 1, 0, 1) : f64[B, 2] @t
  %z = sigmoid(%gt) : f64[B, 2] @t
  %e = unsqueeze(%z, 2) : f64[B, 2, 1] @t
  %p = mul(%S[-1], %e) : f64[B, 2, 2] @t
  %r = einsum("bi,bj->bij", [%kt, %vt]) : f64[B, 2, 2] @t
  %S = add(%p, %r) : f64[B, 2, 2] @t init(%S0)
  %o = einsum("bi,bij->bj", [%qt, %S]) : f64[B, 2] @t
  %y = stack(%o, 1) : f64[B, T, 2]
  return %y
}
""",
    # products of matrices that differ at every step
    "frames": """
graph frames(%M: f64[B, T, 2, 2], %x: f64[B, T, 2], %h0: f64[B, 2]) {
  time t = T
  %m = signal(%M, 1, 0, 1) : f64[B, 2, 2] @t
  %u = signal(%x, 1, 0, 1) : f64[B, 2] @t
  %p = einsum("bij,bj->bi", [%m, %h[-1]]) : f64[B, 2] @t
  %h = add(%p, %u) : f64[B, 2] @t init(%h0)
  %y = stack(%h, 1) : f64[B, T, 2]
  return %y
}
""",
    # the best path through costs: a recurrence over (max, +)
    "paths": """
graph paths(%w: f64[B, T, 3], %x: f64[B, T, 3], %h0: f64[B, 3]) {
  time t = T
  %a = signal(%w, 1, 0, 1) : f64[B, 3] @t
  %u = signal(%x, 1, 0, 1) : f64[B, 3] @t
  %p = add(%h[-1], %a) : f64[B, 3] @t
  %h = maximum(%p, %u) : f64[B, 3] @t init(%h0)
  %y = stack(%h, 1) : f64[B, T, 3]
  return %y
}
""",
    # position and velocity under a force: two states, each read by the other's side
    "spring": """
graph spring(%f: f64[B, T], %p0: f64[B], %v0: f64[B], %k: f64[] = param "k") {
  time t = T
  %u = signal(%f, 1, 0, 1) : f64[B] @t
  %s = mul(%p[-1], %k) : f64[B] @t
  %d = sub(%u, %s) : f64[B] @t
  %e = mul(%v[-1], 0.5) : f64[B] @t
  %v = add(%e, %d) : f64[B] @t init(%v0)
  %i = mul(%v, 0.25) : f64[B] @t
  %p = add(%p[-1], %i) : f64[B] @t init(%p0)
  %y = stack(%p, 1) : f64[B, T]
  %z = stack(%v, 1) : f64[B, T]
  return %y, %z
}
""",
    # a sum that starts again after an end of episode: the flag of the step before clears it
    "resets": """
graph resets(%x: f64[B, T], %d: f64[B, T], %h0: f64[B], %d0: f64[B]) {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B] @t
  %e = signal(%d, 1, 0, 1) : f64[B] @t
  %k = rsub(%e, 1) : f64[B] @t init(%d0)
  %p = mul(%k[-1], %h[-1]) : f64[B] @t
  %h = add(%p, %u) : f64[B] @t init(%h0)
  %y = stack(%h, 1) : f64[B, T]
  return %y
}
""",
    # both directions over one input, their states side by side
    "bidirectional": """
graph bidirectional(%x: f64[B, T, 2], %a: f64[2] = param "a", %c: f64[2] = param "c") {
  time t = T
  time s = T backward
  %zero = new_zeros(%x, [B, 2]) : f64[B, 2]
  %u = signal(%x, 1, 0, 1) : f64[B, 2] @t
  %p = mul(%h[-1], %a) : f64[B, 2] @t
  %h = add(%p, %u) : f64[B, 2] @t init(%zero)
  %w = signal(%x, 1, 0, 1) : f64[B, 2] @s
  %q = mul(%k[-1], %c) : f64[B, 2] @s
  %k = add(%q, %w) : f64[B, 2] @s init(%zero)
  %y = stack(%h, 1) : f64[B, T, 2]
  %z = stack(%k, 1) : f64[B, T, 2]
  %j = cat([%y, %z], -1) : f64[B, T, 4]
  return %j
}
""",
    # a memory read at its end through a learned map, with a drive made of one channel
    "summary": """
graph summary(%x: f64[B, T, 2], %h0: f64[B, 3], %A: f64[3, 3] = buffer "A", %G: f64[3, 2] = param "G", %W: f64[2, 3] = param "W", %c: f64[2] = param "c") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B, 2] @t
  %b = linear(%u, %G) : f64[B, 3] @t
  %p = linear(%h[-1], %A) : f64[B, 3] @t
  %h = add(%p, %b) : f64[B, 3] @t init(%h0)
  %o = linear(%h, %W, %c) : f64[B, 2] @t
  %s = add(%o, %u) : f64[B, 2] @t
  %y = last(%s) : f64[B, 2]
  return %y
}
""",
    # a mean over time so far, and the coefficients t/(t+1) read from a table
    "average": """
graph average(%x: f64[B, T], %w: f64[T]) {
  time t = T
  %zero = new_zeros(%x, [B]) : f64[B]
  %u = signal(%x, 1, 0, 1) : f64[B] @t
  %c = signal(%w, 0, 0, 1) : f64[] @t
  %n = rsub(%c, 1) : f64[] @t
  %p = mul(%h[-1], %c) : f64[B] @t
  %q = mul(%u, %n) : f64[B] @t
  %h = add(%p, %q) : f64[B] @t init(%zero)
  %y = stack(%h, 1) : f64[B, T]
  return %y
}
""",
    # a recurrence that is clamped below, beside a linear one that it drives
    "rectified": """
graph rectified(%x: f64[B, T, 2], %h0: f64[B, 2], %a: f64[2] = param "a") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B, 2] @t
  %p = mul(%h[-1], %a) : f64[B, 2] @t
  %s = add(%p, %u) : f64[B, 2] @t
  %h = relu(%s) : f64[B, 2] @t init(%h0)
  %q = mul(%k[-1], 0.5) : f64[B, 2] @t
  %k = add(%q, %h) : f64[B, 2] @t init(%h0)
  %y = stack(%k, 1) : f64[B, T, 2]
  return %y
}
""",
    # two integrators that differ in their initial states alone
    "twins": """
graph twins(%x: f64[B, T], %h0: f64[B], %k0: f64[B], %a: f64[] = param "a") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B] @t
  %p = mul(%h[-1], %a) : f64[B] @t
  %h = add(%p, %u) : f64[B] @t init(%h0)
  %q = mul(%k[-1], %a) : f64[B] @t
  %k = add(%q, %u) : f64[B] @t init(%k0)
  %y = stack(%h, 1) : f64[B, T]
  %z = stack(%k, 1) : f64[B, T]
  return %y, %z
}
""",
    # the first advantage of an episode: a loop from the end, of which only the last value is needed
    "terminal": """
graph terminal(%r: f64[B, T], %v: f64[B, T], %g: f64[] = param "g") {
  time t = T backward
  %zero = new_zeros(%r, [B]) : f64[B]
  %a = signal(%r, 1, 0, 1) : f64[B] @t
  %b = signal(%v, 1, 0, 1) : f64[B] @t
  %p = mul(%h[-1], %g) : f64[B] @t
  %h = add(%p, %a) : f64[B] @t init(%zero)
  %s = sub(%h, %b) : f64[B] @t
  %f = last(%s) : f64[B]
  return %f
}
""",
    # a wide state seen through one channel at every step
    "sensor": """
graph sensor(%x: f64[B, T, 3], %h0: f64[B, 3], %A: f64[3, 3] = param "A", %W: f64[1, 3] = param "W", %c: f64[1] = param "c") {
  time t = T
  %u = signal(%x, 1, 0, 1) : f64[B, 3] @t
  %p = linear(%h[-1], %A) : f64[B, 3] @t
  %h = add(%p, %u) : f64[B, 3] @t init(%h0)
  %o = linear(%h, %W, %c) : f64[B, 1] @t
  %y = stack(%o, 1) : f64[B, T, 1]
  return %y
}
""",
}
