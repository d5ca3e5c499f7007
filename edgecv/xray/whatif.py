"""What a layer would cost if it were built otherwise: parameters and MACs before and after."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from edgecv.xray import relations
from edgecv.xray.graph import CONVOLUTIONS
from edgecv.xray.rows import Row, Table
from edgecv_runtime.records import Record

BOTTLENECK = 4  # He et al. 2016, figure 5: a quarter of the channels


class Change(Record, frozen=True):
    """One layer before and after one change, at batch 1."""

    layer: str
    change: str
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int


def what_if(table: Table) -> list[Change]:
    """Every change that fits a layer, for all layers of a table; without biases on either side.

    fully connected: each output sees each input by a weight of its own. depthwise separable: Howard et al. 2017. 3x3s
    for a larger kernel: the same receptive field (Simonyan and Zisserman 2015, section 2.3). bottleneck: 1x1 to a
    quarter of the channels, the kernel there, 1x1 back (He et al. 2016). strided convolution for pooling: Springenberg
    et al. 2015, section 2.
    """
    return [change for row in table.rows for ways in _WAYS for change in ways(row)]


def _fully_connected(row: Row) -> Iterator[Change]:
    if row.kind in CONVOLUTIONS:
        cost = relations.linear_macs(math.prod(row.input_shape), math.prod(row.output_shape))
        yield _change(row, "fully connected", cost, cost)


def _separable(row: Row) -> Iterator[Change]:
    if _is_plain(row):
        inputs, outputs, places = _sizes(row)
        yield _change(
            row,
            "depthwise separable",
            relations.separable_parameters(inputs, outputs, row.kernel, bias=False),
            relations.separable_macs(inputs, outputs, row.kernel, places),
        )


def _small_kernels(row: Row) -> Iterator[Change]:
    """(k - 1) / 2 kernels of 3, the last of which has the stride."""
    size = row.kernel[0] if row.kernel else 0
    if not _is_plain(row) or set(row.kernel) != {size} or size < 5 or size % 2 == 0 or set(row.dilation) != {1}:
        return
    inputs, outputs, places = _sizes(row)
    count, small = (size - 1) // 2, (3,) * len(row.kernel)
    full = row.input_shape[2:]
    chain = [(inputs if step == 0 else outputs, places if step == count - 1 else full) for step in range(count)]
    yield _change(
        row,
        f"{count} {'x'.join(map(str, small))} for the {'x'.join(map(str, row.kernel))}",
        sum(relations.conv_parameters(channels, outputs, small, bias=False) for channels, _ in chain),
        sum(relations.conv_macs(channels, outputs, small, there) for channels, there in chain),
    )


def _bottleneck(row: Row) -> Iterator[Change]:
    if not _is_plain(row) or row.input_shape[1] < 2 * BOTTLENECK or row.output_shape[1] < 2 * BOTTLENECK:
        return
    inputs, outputs, places = _sizes(row)
    narrow = outputs // BOTTLENECK
    steps = [
        (inputs, narrow, (1,), row.input_shape[2:]),
        (narrow, narrow, row.kernel, places),
        (narrow, outputs, (1,), places),
    ]
    yield _change(
        row,
        "1x1 bottleneck",
        sum(relations.conv_parameters(i, o, kernel, bias=False) for i, o, kernel, _ in steps),
        sum(relations.conv_macs(*step) for step in steps),
    )


def _strided(row: Row) -> Iterator[Change]:
    if row.kind == "pool" and row.stride and max(row.stride) > 1:
        channels, _, places = _sizes(row)
        yield _change(
            row,
            "strided convolution for pooling",
            relations.conv_parameters(channels, channels, row.kernel, bias=False),
            relations.conv_macs(channels, channels, row.kernel, places),
        )


_WAYS: tuple[Callable[[Row], Iterator[Change]], ...] = (
    _fully_connected,
    _separable,
    _small_kernels,
    _bottleneck,
    _strided,
)


def _is_plain(row: Row) -> bool:
    """A convolution of all channels with a kernel of more than one place."""
    return row.kind == "conv" and row.groups == 1 and math.prod(row.kernel) > 1


def _sizes(row: Row) -> tuple[int, int, tuple[int, ...]]:
    return row.input_shape[1], row.output_shape[1], row.output_shape[2:]


def _change(row: Row, change: str, parameters: int, macs: int) -> Change:
    before = (
        relations.conv_parameters(row.input_shape[1], row.output_shape[1], row.kernel, row.groups, bias=False)
        if row.kind in CONVOLUTIONS
        else 0
    )
    return Change(row.name, change, before, parameters, row.macs, macs)
