"""Language: text that is no graph, and graphs that break a law of linrec.ir."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR6001": Code(
        "the text is not that of a graph",
        """\
The place and what was expected there stand in the message. The smallest text of a graph with a recurrence:

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

    %y = einsum("bi,ij->bj, %x, %A)      // the quote is not closed

Cure: close the string. The escapes are \\\\ \\" \\n \\t \\r and \\u{1f600}.

    %y = einsum("bi,ij->bj", %x, %A)
""",
    ),
    "LR6003": Code(
        "something in the text is beyond a bound",
        """\
So that any text is read in bounded time, tuples nest at most 64 deep, integers have at most 100 digits and
a product in a size has at most 64 factors.

    %y = f([[[[ ... ]]]])

Cure: flatten the tuple; make a large constant an input of the graph.
""",
    ),
    "LR6101": Code(
        "a cycle without delay",
        """\
A value needs itself before it is computed. A recurrence is a cycle of reads of which one has a delay.

    %h = add(%h, %u) : f32[B] @t

Cure: read the value of the previous step, and say what stood before the first.

    %h = add(%h[-1], %u) : f32[B] @t init(%h0)
""",
    ),
    "LR6102": Code(
        "a name is defined twice",
        """\
Inputs and results share one set of names; time domains have their own.

    %y = add(%x, 1)
    %y = mul(%y, 2)

Cure: name each value.

    %y = add(%x, 1)
    %z = mul(%y, 2)
""",
    ),
    "LR6103": Code(
        "a time domain is not declared",
        """\
    %u = signal(%x, 1, 0, 1) : f32[B] @t

Cure: declare it, with its number of steps, above the ops.

    time t = T
""",
    ),
    "LR6104": Code(
        "a value is read that nothing defines",
        """\
    graph g(%x: f32[B]) {
      return %y
    }

Cure: read an input or a result, or define it.

    %y = neg(%x) : f32[B]
""",
    ),
    "LR6105": Code(
        "a signal is returned",
        """\
A signal has one tensor for each step; a program returns tensors.

    %h = add(%h[-1], %u) : f32[B] @t init(%h0)
    return %h

Cure: return all steps, the last, or one.

    %y = stack(%h, 1) : f32[B, T]
    return %y
""",
    ),
    "LR6106": Code(
        "a value that does not vary is taken apart by step",
        """\
`stack`, `last` and `pick` turn a signal into a tensor.

    %y = last(%x) : f32[B]               // %x is an input: it does not vary

Cure: read %x itself.
""",
    ),
    "LR6107": Code(
        "a signal of another time domain is read",
        """\
Steps of two time domains do not correspond, even where their numbers agree: one may run backward.

    %a = neg(%u) : f32[B] @s             // %u varies over t

Cure: go through a tensor.

    %all = stack(%u, 1) : f32[B, T]
    %v = signal(%all, 1, 0, 1) : f32[B] @s
    %a = neg(%v) : f32[B] @s
""",
    ),
    "LR6108": Code(
        "a value of a later step is read",
        """\
    %a = neg(%h[+1]) : f32[B] @t

Cure: delays look back: %h[-1] is the previous step. To look ahead, read the tensor at a later place.

    %v = signal(%x, 1, 1, 1) : f32[B] @t
""",
    ),
    "LR6109": Code(
        "a delayed read has no value before the first step",
        """\
    %h = add(%h[-1], %u) : f32[B] @t

Cure: give the value one initial value for each step that is read back.

    %h = add(%h[-1], %u) : f32[B] @t init(%h0)
""",
    ),
    "LR6110": Code(
        "a value has no text",
        """\
Arguments of an op are reads, sizes, numbers, strings, names of torch's, true, false, none and tuples of them.
Anything else, a tensor for instance, would not survive being printed and read again.

    Op("y", "add", (Use("x"), torch.ones(3)))

Cure: make it an input of the graph, with the role "captured".

    %c: f32[3] = captured "ones"
""",
    ),
}
