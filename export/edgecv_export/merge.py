"""Parallel linear branches become one convolution: what RepVGG, MobileOne, RepViT and FastViT train as several.

A sum of convolutions, batch norms, per-channel scales and the tensor itself, all of one tensor, is again a convolution
of it (Ding et al. 2021, arXiv:2101.03697, section 3.3). The kernels are added where their taps meet, in float64; places
in the padding read the same zeros as before, so that the sum is exact up to the rounding to float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.wiring import Wiring, attribute

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One convolution: weights (C_out, C_in / groups, k...); per axis the first tap's place, the taps' distance."""

    weights: Numbers
    groups: int
    first: tuple[int, ...]
    dilation: tuple[int, ...]

    def taps(self, axis: int) -> list[int]:
        """Places of the taps along an axis, counted from the place of the output times the stride."""
        return [self.first[axis] + tap * self.dilation[axis] for tap in range(self.weights.shape[2 + axis])]


@dataclass(frozen=True)
class Form:
    """A tensor as a sum of convolutions of another, times `scale`, plus `offset`, each a number or one per channel.

    terms, strides: of the convolutions; spare: per axis, places of padding behind the last tap. through: how often the
    tensor itself is added. nodes: what computed it.
    """

    source: str
    terms: tuple[Term, ...] = ()
    strides: tuple[int, ...] = ()
    spare: tuple[int, ...] = ()
    through: Numbers = field(default_factory=lambda: np.zeros(()))
    offset: Numbers = field(default_factory=lambda: np.zeros(()))
    nodes: tuple[Any, ...] = ()

    def scaled(self, scale: Numbers, offset: Numbers, node: Any) -> Form:
        """The same times a scale per channel, plus an offset, as one more node computes it."""
        terms = tuple(
            replace(each, weights=each.weights * scale.reshape(-1, *[1] * (each.weights.ndim - 1)))
            for each in self.terms
        )
        return replace(
            self,
            terms=terms,
            through=self.through * scale,
            offset=self.offset * scale + offset,
            nodes=(*self.nodes, node),
        )

    def plus(self, other: Form, node: Any) -> Form | None:
        """The sum of both; None when they read other tensors, or places that do not lie alike."""
        if self.source != other.source:
            return None
        if self.terms and other.terms and (self.strides, self.spare) != (other.strides, other.spare):
            return None
        geometry = self if self.terms else other
        return Form(
            self.source,
            self.terms + other.terms,
            geometry.strides,
            geometry.spare,
            self.through + other.through,
            self.offset + other.offset,
            (*self.nodes, *other.nodes, node),
        )


def merge_branches(model: Any) -> tuple[Any, int]:
    """Merge the linear branches of a float model -> (it, or a copy, and how many convolutions took their place)."""
    wiring, count = Wiring(model), 0
    for name in [node.name for node in wiring.model.graph.node][::-1]:
        node = wiring.nodes.get(name)
        if node is None or node.op_type not in _FORMS:
            continue
        form = _FORMS[node.op_type](wiring, node)
        merged = None if form is None else _merged(form)
        if form is not None and merged is not None:
            _put(wiring, form, *merged, output=node.output[0])
            count += 1
    return (wiring.model, count) if count else (model, 0)


def _form(wiring: Wiring, name: str) -> Form:
    """A tensor as a sum of convolutions, as far as nobody else reads what lies between; else as itself."""
    maker = wiring.makers.get(name)
    alone = wiring.only_reader(name) is not None
    found = _FORMS[maker.op_type](wiring, maker) if alone and maker is not None and maker.op_type in _FORMS else None
    return found or Form(name, through=np.ones(()))


def _conv(wiring: Wiring, node: Any) -> Form | None:
    layer = wiring.layer(node)
    if layer is None or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    weights = wiring.weights(layer).astype(np.float64)
    axes = weights.ndim - 2
    pads = attribute(node, "pads", [0] * 2 * axes)
    dilation = tuple(attribute(node, "dilations", [1] * axes))
    first = tuple(-before for before in pads[:axes])
    term = Term(weights, attribute(node, "group", 1), first, dilation)
    spare = tuple(after - term.taps(axis)[-1] for axis, after in enumerate(pads[axes:]))
    strides = tuple(attribute(node, "strides", [1] * axes))
    return Form(node.input[0], (term,), strides, spare, offset=wiring.bias(layer).astype(np.float64), nodes=(node,))


def _batch_norm(wiring: Wiring, node: Any) -> Form | None:
    parameters = [wiring.constant(name) for name in node.input[1:5]]
    if any(each is None for each in parameters) or attribute(node, "training_mode", 0):
        return None
    gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in parameters)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return _form(wiring, node.input[0]).scaled(scale, beta - mean * scale, node)


def _arithmetic(wiring: Wiring, node: Any) -> Form | None:
    """Addition, subtraction and multiplication with one number per channel, or addition of two sums."""
    op, (first, second) = node.op_type, node.input
    for number, name in ((second, first), (first, second)):
        values = _per_channel(wiring, number)
        if values is None or (op == "Div" and number == first):
            continue
        form, one = _form(wiring, name), np.ones(())
        if op in ("Mul", "Div"):
            return form.scaled(values if op == "Mul" else 1 / values, np.zeros(()), node)
        if op == "Add":
            return form.scaled(one, values, node)
        return form.scaled(one, -values, node) if number == second else form.scaled(-one, values, node)
    if op in ("Mul", "Div") or first in wiring.constants or second in wiring.constants:
        return None
    added = _form(wiring, second)
    if op == "Sub":
        added = replace(added.scaled(-np.ones(()), np.zeros(()), node), nodes=added.nodes)
    return _form(wiring, first).plus(added, node)


def _per_channel(wiring: Wiring, name: str) -> Numbers | None:
    """A constant of one number, or of one per channel of (N, C, ...), as () or (C,)."""
    values = wiring.constant(name)
    if values is None or values.dtype != np.float32:
        return None
    if values.size == 1 and values.ndim <= 3:
        return values.astype(np.float64).reshape(())
    channels = values.shape[1:] if values.ndim == 4 else values.shape
    alone = len(channels) == 3 and channels[1:] == (1, 1) and (values.ndim == 3 or values.shape[0] == 1)
    return values.astype(np.float64).reshape(-1) if alone else None


_FORMS = {"Conv": _conv, "BatchNormalization": _batch_norm, **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic)}


def _merged(form: Form) -> tuple[Term, Numbers] | None:
    """The one convolution of a form and its bias; None where there is nothing to merge, or it would multiply more."""
    convolutions = form.terms
    if not convolutions or len(form.nodes) < 2:
        return None
    outputs, groups = len(convolutions[0].weights), convolutions[0].groups
    inputs, axes = convolutions[0].weights.shape[1] * groups, convolutions[0].weights.ndim - 2
    if axes != 2 or any(
        len(each.weights) != outputs or each.weights.shape[1] * each.groups != inputs for each in convolutions
    ):
        return None
    terms = list(convolutions)
    if np.any(form.through):
        if inputs != outputs or set(form.strides) != {1} or any(form.spare):
            return None
        scale = np.broadcast_to(form.through, (outputs,)).reshape(-1, 1, *[1] * axes)
        terms.append(Term(scale, outputs, (0,) * axes, (1,) * axes))
    joined = _joined(terms, inputs, axes)
    if joined.weights.size > sum(each.weights.size for each in convolutions):
        return None
    return joined, np.broadcast_to(form.offset, (outputs,))


def _joined(terms: Sequence[Term], inputs: int, axes: int) -> Term:
    """The sum of convolutions: every tap at its place, every group in the one that holds it."""
    outputs, groups = len(terms[0].weights), math.gcd(*(each.groups for each in terms))
    first, dilation, kernel = [], [], []
    for axis in range(axes):
        places = sorted({place for each in terms for place in each.taps(axis)})
        step = reduce(math.gcd, (place - places[0] for place in places)) or 1
        first.append(places[0])
        dilation.append(step)
        kernel.append((places[-1] - places[0]) // step + 1)
    joined = np.zeros((outputs, inputs // groups, *kernel))
    for each in terms:
        width = each.weights.shape[1]
        where = [[(place - first[axis]) // dilation[axis] for place in each.taps(axis)] for axis in range(axes)]
        for output in range(outputs):
            inside = output // (outputs // each.groups) * width  # the first channel that it reads
            start = inside - output // (outputs // groups) * (inputs // groups)
            joined[output][np.ix_(range(start, start + width), *where)] += each.weights[output]
    return Term(joined, groups, tuple(first), tuple(dilation))


def _put(wiring: Wiring, form: Form, term: Term, bias: Numbers, *, output: str) -> None:
    """Replace the nodes of a form by one convolution, in the place of the last of them."""
    import onnx

    graph = wiring.model.graph
    last = form.nodes[-1]
    after = [spare + term.taps(axis)[-1] for axis, spare in enumerate(form.spare)]
    node = onnx.helper.make_node(
        "Conv",
        [form.source, f"{last.name}:merged", f"{last.name}:bias"],
        [output],
        name=f"{last.name}/merged",
        kernel_shape=term.weights.shape[2:],
        strides=form.strides,
        dilations=term.dilation,
        group=term.groups,
        pads=[-place for place in term.first] + after,
    )
    for name, values in ((node.input[1], term.weights), (node.input[2], bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    place = next(index for index, each in enumerate(graph.node) if each.name == last.name)
    graph.node.insert(place, node)
    names = {each.name for each in form.nodes}
    for index in range(len(graph.node) - 1, -1, -1):
        if graph.node[index].name in names:
            del graph.node[index]
    _drop_unused(graph)
    wiring.refresh()


def _drop_unused(graph: Any) -> None:
    """Forget the constants that nobody reads any more."""
    used = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
