"""Language: text that is no graph, and graphs that break a law of linrec.ir."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR6001": Code(
        "the text is not that of a graph",
        """\
The place and what was expected there stand in the message.

    graph leaky(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %h = add(%h[-1] %u) : f32[B] @t init(%h0)
      return %h0
    }

Cure: the smallest text of a graph with a recurrence is

    graph leaky(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %m = mul(%h[-1], 0.9) : f32[B] @t
      %h = add(%m, %u) : f32[B] @t init(%h0)
      %y = stack(%h, 1) : f32[B, T]
      return %y
    }
""",
    ),
    "LR6002": Code(
        "a string in the text is not well formed",
        """\
Strings stand in double quotes and end on the line on which they start.

    graph g(%x: f32[B, 4], %A: f32[4, 4]) {
      %y = einsum("bi,ij->bj, [%x, %A])
      return %y
    }

Cure: close the string. The escapes are \\\\ \\" \\n \\t \\r and \\u{1f600}.

    graph g(%x: f32[B, 4], %A: f32[4, 4]) {
      %y = einsum("bi,ij->bj", [%x, %A])
      return %y
    }
""",
    ),
    "LR6003": Code(
        "something in the text is beyond a bound",
        """\
So that any text is read in bounded time, it has at most 16,777,216 characters, tuples nest at most 64
deep, integers have at most 100 digits and a product in a size has at most 64 factors.

    graph g(%x: f32[B]) {
      %y = tensor(
        [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
        ]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]])
      return %y
    }

Cure: flatten the tuple; make a large constant an input of the graph.

    graph g(%x: f32[B], %large: f32[]) {
      %y = mul(%x, %large)
      return %y
    }
""",
    ),
    "LR6101": Code(
        "a cycle without delay",
        """\
A value needs itself before it is computed. A recurrence is a cycle of reads of which one has a delay.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %h = add(%h, %u) : f32[B] @t init(%h0)
      return %x
    }

Cure: read the value of the previous step, and say what stood before the first.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %h = add(%h[-1], %u) : f32[B] @t init(%h0)
      return %x
    }
""",
    ),
    "LR6102": Code(
        "a name is defined twice",
        """\
Inputs and results share one set of names; time domains have their own.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %y = add(%x, 1)
      %y = mul(%y, 2)
      return %y
    }

Cure: name each value.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %y = add(%x, 1)
      %z = mul(%y, 2)
      return %z
    }
""",
    ),
    "LR6103": Code(
        "a time domain is not declared",
        """\
Steps are those of a time domain, which says how many there are.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %y = last(%u) : f32[B]
      return %y
    }

Cure: declare it, with its number of steps, above the ops.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %y = last(%u) : f32[B]
      return %y
    }
""",
    ),
    "LR6104": Code(
        "a value is read that nothing defines",
        """\
Values are the inputs of the graph and the results of its ops.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %z = neg(%x) : f32[B, T]
      return %y
    }

Cure: read an input or a result, or define it.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %y = neg(%x) : f32[B, T]
      return %y
    }
""",
    ),
    "LR6105": Code(
        "a signal is returned",
        """\
A signal has one tensor for each step; a program returns tensors.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      return %u
    }

Cure: return all steps, the last, or one.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %y = stack(%u, 1) : f32[B, T]
      return %y
    }
""",
    ),
    "LR6106": Code(
        "a value that does not vary is taken apart by step",
        """\
`stack`, `last` and `pick` turn a signal into a tensor. An input does not vary.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %y = last(%x) : f32[B, T]
      return %y
    }

Cure: read %x itself.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      %y = neg(%x) : f32[B, T]
      return %y
    }
""",
    ),
    "LR6107": Code(
        "a signal of another time domain is read",
        """\
Steps of two time domains do not correspond, even where their numbers agree: one may run backward.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      time s = T backward
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %a = neg(%u) : f32[B] @s
      %y = last(%a) : f32[B]
      return %y
    }

Cure: go through a tensor.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      time s = T backward
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %all = stack(%u, 1) : f32[B, T]
      %v = signal(%all, 1, 0, 1) : f32[B] @s
      %a = neg(%v) : f32[B] @s
      %y = last(%a) : f32[B]
      return %y
    }
""",
    ),
    "LR6108": Code(
        "a value of a later step is read",
        """\
Delays look back: %h[-1] is the previous step.

    graph g(%x: f32[B, T + 1]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %a = neg(%u[+1]) : f32[B] @t
      %y = last(%a) : f32[B]
      return %y
    }

Cure: to look ahead, read the tensor at a later place.

    graph g(%x: f32[B, T + 1]) {
      time t = T
      %v = signal(%x, 1, 1, 1) : f32[B] @t
      %a = neg(%v) : f32[B] @t
      %y = last(%a) : f32[B]
      return %y
    }
""",
    ),
    "LR6109": Code(
        "a delayed read has no value before the first step",
        """\
What stood before the first step must be said.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %h = add(%h[-1], %u) : f32[B] @t
      %y = last(%h) : f32[B]
      return %y
    }

Cure: give the value one initial value for each step that is read back.

    graph g(%x: f32[B, T], %h0: f32[B]) {
      time t = T
      %u = signal(%x, 1, 0, 1) : f32[B] @t
      %h = add(%h[-1], %u) : f32[B] @t init(%h0)
      %y = last(%h) : f32[B]
      return %y
    }
""",
    ),
    "LR6110": Code(
        "a value has no text",
        """\
Arguments of an op are reads, sizes, numbers, strings, names of torch's, true, false, none and tuples of them.
Anything else, a tensor for instance, would not survive being printed and read again.

    op = Op("y", "add", (Use("x"), torch.ones(3)))
    text = show(Graph("g", (Input("x", Type("f32", (3,))),), (), (op,), (Use("y"),)))

Cure: make it an input of the graph, with the role "captured".

    given = Input("x", Type("f32", (3,))), Input("c", Type("f32", (3,)), "captured", "ones")
    op = Op("y", "add", (Use("x"), Use("c")))
    text = show(Graph("g", given, (), (op,), (Use("y"),)))
""",
    ),
    "LR6005": Code(
        "no pass is called that",
        """\
Passes are named as `linrec passes` lists them.

    made = optimize(leaky, ["hoistt"])

Cure: one of the names that the message proposes.

    made = optimize(leaky, ["hoist"])
""",
    ),
}
