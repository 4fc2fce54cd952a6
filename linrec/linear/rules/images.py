"""Rules of images: convolutions, pools, patches and resampling of the state, as maps along its spatial axes."""

from __future__ import annotations

from linrec.ir import Op
from linrec.linear.affine import Form, Refusal
from linrec.linear.rules.maps import Axes, along, mapped
from linrec.linear.rules.table import Builder, rule, shape_of


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _convolution(op: Op, build: Builder) -> Form | Refusal:
    rank = len(build.type(op.args[0]).shape)
    if build.form(op.args[0]) is None and build.form(op.args[1]) is not None:  # the kernel
        return mapped(op, build, Axes(1, range(len(build.type(op.args[1]).shape)), {}))
    batched = rank == int(op.kind[-2]) + 2
    return mapped(op, build, along(0, range(int(batched), rank), rank))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
def _pool(op: Op, build: Builder) -> Form | Refusal:
    rank = len(build.type(op.args[0]).shape)
    return mapped(op, build, along(0, range(rank - int(op.kind[-2]), rank), rank))


@rule(
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
)  # fmt: skip
def _resized(op: Op, build: Builder) -> Form | Refusal:
    rank = len(build.type(op.args[0]).shape)
    return mapped(op, build, along(0, range(2, rank), rank))


@rule("grid_sampler")
def _sampled(op: Op, build: Builder) -> Form | Refusal:
    # at places that do not depend on the state, which may differ along the batch
    rank = len(build.type(op.args[0]).shape)
    touched = [0] if build.type(op.args[1]).shape[0] != 1 else []
    return mapped(op, build, Axes(0, range(2, rank), {0: 0, 1: 1}, touched))


@rule("im2col", "col2im", "affine_grid_generator")
def _patches(op: Op, build: Builder) -> Form | Refusal:
    rank, least = len(build.type(op.args[0]).shape), {"im2col": 3, "col2im": 2, "affine_grid_generator": 2}[op.kind]
    return mapped(op, build, Axes(0, range(rank - least, rank), {i: i for i in range(rank - least)}))


@rule("unfold")
def _windows(op: Op, build: Builder) -> Form | Refusal:
    # windows take the place of the axis, what is in them a new last one
    rank, dim = len(build.type(op.args[0]).shape), op.args[1]
    assert isinstance(dim, int)
    dim %= rank
    return mapped(op, build, Axes(0, [dim], {i: i for i in range(len(shape_of(op)) - 1) if i != dim}))
