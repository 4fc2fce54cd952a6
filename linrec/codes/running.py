"""Running: states that do not fit, forms that do not exist, results that disagree."""

from __future__ import annotations

from linrec.codes.code import Code

CODES: dict[str, Code] = {
    "LR4001": Code(
        "the state does not fit the input",
        """\
A state belongs to one program, batch size, element type and device. Every leaf starts with the batch axis
where the program has one, and that length must be the one of the input. Nothing is broadcast or cast.

    y, state = rnn(x8)                   # a batch of 8
    y, state = rnn(x4, state=state)      # a batch of 4

Cure: start anew with state=None, or keep the rows that go on.

    y, state = rnn(x8)
    y, state = rnn(x4, state=linrec.state_index(state, [0, 2, 5, 7]))
""",
    ),
    "LR4002": Code(
        "step takes one step, and the input has a time axis",
        """\
`step` takes the arguments of the original without their time axis.

    y, state = rnn.step(x)               # x: [8, 784, 1]

Cure: give it one step, or call the module itself to run all steps in parallel.

    y_t, state = rnn.step(x[:, 0])
    y, state = rnn(x)
""",
    ),
    "LR4003": Code(
        "the program looks ahead and has no recurrent form",
        """\
An output needs inputs of later steps: a loop that runs backward, or a sum or mean over all of time
that an earlier step reads. No step with a finite state can compute it.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            h = 0.9 * h + x[:, t]
        return h

    rnn = linrec.compile(net).recurrent(x)         # raises StateError

Cure: compile it for its parallel form, which looks ahead freely, or separate the part that does not.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            h = 0.9 * h + x[:, t]
        return h

    y = linrec.compile(net)(x)
""",
    ),
    "LR4006": Code(
        "the first state is made from the first inputs",
        """\
A state before the first step exists without inputs only if it does not come from them. The same holds for
rows of a stream that were reset: their state is there once they have taken a step.

    def net(x):
        h = x[:, 0]                                # the state starts as the first input
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    rnn = linrec.compile(net).recurrent(x)
    state = rnn.init_state(8)

Cure: start with state=None, which takes the first input there is, or give the inputs.

    def net(x):
        h = x[:, 0]                                # the state starts as the first input
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    rnn = linrec.compile(net).recurrent(x)
    state = rnn.init_state(x)
""",
    ),
    "LR4007": Code(
        "no single step describes the program",
        """\
What is exported or written out as a step must hold for every step, and for every weight. Here the first
steps are special (a state that begins as None, a loop from 1), or a large tensor is not in the state_dict.
Where the original does not run on its first step alone, a first chunk of some steps begins a state.

    def net(x):
        h = None
        for t in range(x.shape[1]):
            h = x[:, t] if h is None else 0.5 * h + x[:, t]
        return h

    text = linrec.step_source(net, x)

Cure: start from a state before the first step; register tensors as buffers. `rnn.step` itself works either
way.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    text = linrec.step_source(net, x)
""",
    ),
    "LR4008": Code(
        "rows of the batch cannot be told apart",
        """\
`lengths`, `reset_mask` and `stream.reset(mask)` treat each row of the batch on its own. That needs a batch
axis, no operator that mixes rows, and a state in which rows have no part in common (such as one count of
steps for all).

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = a * h + x[:, t] - x[:, t].mean(0)  # every row reads every other
        return h

    y = linrec.compile(net)(x, lengths=lengths)

Cure: mix rows outside the model, or run the rows apart.

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = a * h + x[:, t]
        return h

    y = linrec.compile(net)(x - x.mean(0), lengths=lengths)
""",
    ),
    "LR4009": Code(
        "each call changes what the next one reads",
        """\
A program that writes to attributes, buffers or arguments has a recurrent form if no step reads what an
earlier call wrote: a sequence that is split would give other results. Running statistics are such a thing. A
first state may be kept so (self.h that goes on from call to call); then nothing is left to start afresh from.

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = a * h + x[:, t] - self.mean
            if self.training:
                self.mean.lerp_(h.mean(0), 0.1)    # once a call, however many steps it has
            return h

    rnn = linrec.compile(Net()).recurrent(x)

Cure: stop the writing where steps are taken (here `net.eval()` does), or write between the calls.

    mean = torch.zeros(4)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = a * h + x[:, t] - mean
        return h

    rnn = linrec.compile(net).recurrent(x)
    mean.lerp_(x.mean((0, 1)), 0.1)    # once a call, however many steps it has
""",
    ),
    "LR4010": Code(
        "a table of steps is at its end",
        """\
A loop over A[t] or an embedding of positions holds for as many steps as the table has entries. The error says
which table it is and how many steps were taken.

    table = torch.rand(12, 4)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = table[t] * h + x[:, t]
        return h

    rnn = linrec.compile(net).recurrent(x)
    y, state = rnn(x)
    y, state = rnn(x, state=state)                 # steps 12 to 23 of a table of 12

Cure: make the table longer, start afresh, or go round in it.

    table = torch.rand(24, 4)

    def net(x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = table[t] * h + x[:, t]
        return h

    rnn = linrec.compile(net).recurrent(x)
    y, state = rnn(x)
    y, state = rnn(x, state=state)
""",
    ),
    "LR5001": Code(
        "results disagree",
        """\
Values differ by more than rounding explains: on the first call between the compiled program and the
original (from then on the original runs, so results stay right), or in `linrec verify` before and after a
pass. The program plays a defect of linrec: a coefficient that changes while passes run.

    def wrong(graph):
        return parse(show(graph).replace("0.9", "0.5"))

    with watching(Injected("cse", wrong)):
        y = linrec.compile(decay)(x)               # warns; report.verification says by how much

Cure: this is never your doing. One recurrence can stay a loop while the others are parallel; `linrec
bisect` names the rewrite, `linrec reduce` makes the smallest program that shows it.

    y = linrec.compile(decay, forms={"r0": "sequential"})(x)
""",
    ),
    "LR5002": Code(
        "gradients disagree",
        """\
Values agree and gradients do not: a pass cut one, or gave a derivative that is not that of the program.
The program plays such a defect of linrec.

    def wrong(graph):
        text = show(graph).replace("mul(%h[-1], 0.9)", "mul(%d, 0.9)")
        return parse(text.replace("  %p =", cut + "  %p ="))

    cut = "  %d = detach(%h[-1]) : f32[B] @t\\n"

    made = optimize(leaky, hooks=[Injected("cse", wrong), VerifyEach()])

Cure: this is never your doing; `linrec bisect` names the rewrite, `linrec reduce` makes the smallest program
that shows it.

    made = optimize(leaky, hooks=[VerifyEach()])
""",
    ),
    "LR5003": Code(
        "what a pass says of a recurrence does not hold",
        """\
Passes keep records of recurrences: members, states, whether the step is linear, its structure, its form.
Validation tests each record where it is written. The program plays a pass that misses an output.

    def wrong(graph):
        return parse(show(graph).replace("outputs(%h)", "outputs(%p)"))

    made = optimize(leaky, hooks=[Injected("find-recurrences", wrong), VerifyEach()])

Cure: this is never your doing, unless you edited the record in a text: leave it out, and the passes write
it anew.

    made = optimize(replace(leaky, recurrences=()), hooks=[VerifyEach()])
""",
    ),
    "LR5004": Code(
        "a value does not have the type it is declared with",
        """\
Forms are chosen by the types in the graph, so a wrong one matters even where the numbers are right.
Validation compares every value with its type.

    def wrong(graph):
        return parse(show(graph).replace("0.9) : f32[B]", "0.9) : f32[B, 1]"))

    made = optimize(leaky, hooks=[Injected("cse", wrong), VerifyEach()])

Cure: correct the type, or leave it out where you edited the text.

    made = optimize(leaky, hooks=[VerifyEach()])
""",
    ),
    "LR5005": Code(
        "the program cannot be run after a pass",
        """\
Before the pass the program ran on some numbers, after it an operator refuses its arguments.

    def wrong(graph):
        return parse(show(graph).replace("mul(%h[-1], 0.9)", "matmul(%h[-1], 0.9)"))

    made = optimize(leaky, hooks=[Injected("cse", wrong), VerifyEach()])

Cure: this is never your doing; `linrec bisect` names the rewrite, `linrec reduce` makes the smallest program
that shows it.

    made = optimize(leaky, hooks=[VerifyEach()])
""",
    ),
    "LR5006": Code(
        "steps do not give what the sequence gives",
        """\
Law 2: folding `step` over an input equals running all of it, final state included. The program plays a defect
that touches the step alone.

    def wrong(graph):
        is_step = not graph.times                  # a step has no loop
        return parse(show(graph).replace("0.9", "0.5")) if is_step else None

    with watching(Injected("cse", wrong)):
        codes = [v.code for v in check_laws(decay, [x], laws=["L2"])]

Cure: this is never your doing; run the sequence in chunks until it is mended.

    codes = [v.code for v in check_laws(decay, [x], laws=["L2"])]
""",
    ),
    "LR5007": Code(
        "a sequence that is split gives other results",
        """\
Law 3: chunk by chunk, with the state carried over, equals running it whole. The program plays a state that is
forgotten between chunks.

    def wrong(graph):
        return parse(re.sub(r"init\\(%state[\\w.]+\\)", "init(0.0)", show(graph)))

    with watching(Injected("canonicalize", wrong)):
        codes = [v.code for v in check_laws(decay, [x], laws=["L3"])]

Cure: this is never your doing; run the whole sequence at once until it is mended.

    codes = [v.code for v in check_laws(decay, [x], laws=["L3"])]
""",
    ),
}
