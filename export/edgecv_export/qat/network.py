"""A float32 graph as a PyTorch module that computes on the grids of an int8 file, and the file that it becomes.

The module runs the nodes of the ONNX graph itself, so that it quantizes exactly the tensors on which the writer puts
Q/DQ, whatever the architecture; only batch norms, which export folds, come from the network that was exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecv_export import qdq
from edgecv_export.dialects import Dialect, Grid
from edgecv_export.grids import weight_grids
from edgecv_export.interface import INPUT
from edgecv_export.passes.setting import Setting
from edgecv_export.qat import fake
from edgecv_export.qat.norms import Normed
from edgecv_export.qat.operators import OPERATORS, Operator
from edgecv_export.wiring import Wiring
from edgecv_runtime.errors import BadInput, ComputationError

PIXELS = ("Cast", "Transpose", "Mul", "Add")  # what an exported graph does before the network: see graph.Deployed
LEARNED = {"LayerNormalization": (1, 2), "BatchNormalization": (1, 2)}  # beside the weights and biases of layers


@dataclass(frozen=True)
class _Node:
    """A node of the graph.

    axis: of the output channels, where its weights lie on a grid. int_bias: whether its bias is int32. last: tensors
    that nobody reads after it.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    axis: int | None
    int_bias: bool
    last: tuple[str, ...]


class FakeQuantized(nn.Module):
    """A network on the grids of a dialect: (N, C, H, W) normalized floats -> what the int8 file gives, up to rounding;
    where a graph ends in the class of each pixel, the logits that it is of, because a choice has no gradient.

    setting: the grids to start from; normed: the layers with batch norms, by node name, from `norms.find`; scale_rate:
    how many times the learning rate of the weights that of the activations' scales is. They are learned as logarithms,
    so that a step is a share of the scale (Jain et al. 2020, arXiv:1903.08066, section 4.2). Zero points stay: they are
    integers, and where an activation function bounds a tensor, the bound stays on the grid. Weights lie on the grid
    that holds them all.
    Batch norms are live for the first `live` steps of training: weights are folded by the running statistics, quantized
    and unfolded again, and the statistics of the batch normalize (Krishnamoorthi 2018, arXiv:1806.08342, section
    3.2.2). From then on, and in evaluation, they are folded for good: what is computed is what the file computes. Of
    islands in half precision only the scales are rounded here, the rest is float32.
    Raises BadInput for a graph without edgecv's preprocessing, or with an operator that cannot be trained through.
    """

    steps: Tensor
    log_starts: Tensor

    def __init__(
        self, setting: Setting, dialect: Dialect, normed: Mapping[str, Normed], live: int, scale_rate: float = 1.0
    ) -> None:
        super().__init__()
        wiring = setting.wiring
        self._live, self._scale_rate = live, scale_rate
        self._half = dialect.islands == "fp16"
        pixels, choice = _pixels(wiring), _choice(wiring)
        self._start = pixels[-1].output[0]
        (self._end,) = choice[0].input if choice else wiring.outputs
        self._nodes = _nodes(setting, dialect, [node.name for node in (*pixels, *choice)])
        self._grids, self._places = _distinct(setting)
        self.normed = nn.ModuleDict({_key(name): each for name, each in normed.items()})
        self.register_buffer("log_starts", torch.log(torch.tensor([float(grid.scale) for grid in self._grids])))
        self.moved = nn.Parameter(torch.zeros(len(self._grids)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._constants: dict[str, str] = {}
        learned = _learned(wiring)
        read = {name for node in self._nodes for name in (node.inputs if node.name not in normed else node.inputs[:1])}
        for name in sorted(read & set(wiring.constants)):
            values = torch.from_numpy(np.array(wiring.constant(name)))
            self._constants[name] = f"constant:{_key(name)}"
            if name in learned:
                self.register_parameter(self._constants[name], nn.Parameter(values))
            else:
                self.register_buffer(self._constants[name], values)

    def extra_repr(self) -> str:
        """What is set by hand: a training that was interrupted goes on only with the same."""
        return f"live={self._live}, scale_rate={self._scale_rate:g}"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalized floats -> logits."""
        live = self.training and int(self.steps) < self._live
        if self.training:
            self.steps += 1
        scales = self._scales()
        values = {self._start: self._on_grid(self._start, x, scales)}
        for node in self._nodes:
            inputs = [values[name] if name in values else self._constant(name) for name in node.inputs]
            if node.axis is not None or self._normed(node) is not None:
                output = self._layer(node, inputs, scales, live)
            else:
                output = node.operator(inputs, node.attributes)
            values[node.output] = self._on_grid(node.output, output, scales)
            for name in node.last:
                values.pop(name, None)
        return values[self._end]

    def _layer(self, node: _Node, inputs: list[Any], scales: Tensor, live: bool) -> Tensor:
        """A convolution or matrix product with its weights and bias on their grids."""
        x, *own = inputs
        normed = self._normed(node)
        weights, bias, factor = (*own, None, None)[:3] if normed is None else normed.folded()
        place = self._places.get(node.inputs[0])
        source = None if place is None else scales[place]
        steps = None if node.axis is None else self._held(fake.weight_scale(weights, node.axis, bias, source))
        near = weights if steps is None else fake.fake_weights(weights, steps)
        if normed is not None and live:
            return normed.normalize(node.operator([x, near], node.attributes), factor)
        if node.int_bias and steps is not None and source is not None:
            bias = fake.fake_bias(bias, source * steps.flatten())
        return node.operator([x, near] if bias is None else [x, near, bias], node.attributes)

    def _scales(self) -> Tensor:
        # The rate times what was moved, with a gradient of 1: a step of SGD would take the rate a second time.
        moved = self.moved + (self._scale_rate - 1) * self.moved.detach()
        return self._held(torch.exp(self.log_starts + moved))

    def _held(self, scales: Tensor) -> Tensor:
        """Scales as the file holds them."""
        return fake.half_up(scales) if self._half else scales

    def _on_grid(self, name: str, values: Tensor, scales: Tensor) -> Tensor:
        place = self._places.get(name)
        if place is None:
            return values
        zero_point = self._grids[place].zero_point
        limits = np.iinfo(zero_point.dtype)  # where ONNX's QuantizeLinear saturates
        return fake.fake_quantize(values, scales[place], int(zero_point), int(limits.min), int(limits.max))

    def _constant(self, name: str) -> Tensor | None:
        return getattr(self, self._constants[name]) if name in self._constants else None

    def _normed(self, node: _Node) -> Any:
        key = _key(node.name)
        return self.normed[key] if key in self.normed else None  # noqa: SIM401  nn.ModuleDict has no get

    @torch.no_grad()
    def graph(self, wiring: Wiring) -> Wiring:
        """A copy of the float32 graph that it was made of, with the trained weights in it, batch norms folded."""
        import onnx

        trained = Wiring(wiring.model)
        for name, own in self._constants.items():
            values = getattr(self, own)
            if isinstance(values, nn.Parameter):
                array = np.ascontiguousarray(values.cpu().numpy())
                trained.constants[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
        for node in self._nodes:
            normed = self._normed(node)
            if normed is not None:
                layer = trained.layer(trained.nodes[node.name])
                assert layer is not None
                weights, bias, _ = normed.folded()
                trained.set_weights(layer, weights.cpu().numpy())
                trained.set_bias(layer, bias.cpu().numpy())
        return trained

    def grids(self) -> dict[str, Grid]:
        """The grids of the activations by tensor name, where training has moved them to."""
        scales = self._scales().detach().cpu().numpy()
        moved = [
            Grid(np.array(scale, np.float32), grid.zero_point, grid.lowest, grid.highest)
            for scale, grid in zip(scales, self._grids, strict=True)
        ]
        return {name: moved[place] for name, place in self._places.items()}


def write(network: FakeQuantized, setting: Setting, dialect: Dialect) -> bytes:
    """The int8 file of a trained network, by the same writer as every other; setting: what the network was made of.

    Raises ComputationError when training drove a scale out of float32's normal numbers.
    """
    grids = network.grids()
    tiny = np.finfo(np.float32).tiny
    lost = {name: grid.scale for name, grid in grids.items() if not tiny <= grid.scale < np.inf}
    if lost:
        name = next(iter(lost))
        raise ComputationError(f"the scale of '{name}' is {lost[name]:g} after training, {len(lost)} scales are lost")
    wiring = network.graph(setting.wiring)
    nodes = [wiring.nodes[node.name] for node in setting.nodes]
    return qdq.write(wiring, nodes, grids | weight_grids(wiring, nodes, grids, dialect), dialect)


def _pixels(wiring: Wiring) -> list[Any]:
    """The nodes from the uint8 image to the normalized tensor."""
    nodes: list[Any] = []
    name = INPUT
    for kind in PIXELS:
        node = wiring.only_reader(name)
        if node is None or node.op_type != kind:
            raise BadInput("quantization-aware training wants a graph that edgecv exported, with normalization inside")
        nodes.append(node)
        name = node.output[0]
    return nodes


def _choice(wiring: Wiring) -> list[Any]:
    """The nodes that make a class map of logits, where a graph ends in them: see classmap.ClassMap."""
    (name,) = wiring.outputs
    cast = wiring.makers.get(name)
    chosen = wiring.makers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
    return [chosen, cast] if chosen is not None and chosen.op_type == "ArgMax" else []


def _nodes(setting: Setting, dialect: Dialect, left_out: list[str]) -> list[_Node]:
    """The nodes that are trained through, in the graph's order."""
    import onnx

    wiring = setting.wiring
    quantized = {node.name for node in setting.nodes}
    left = [node for node in wiring.model.graph.node if node.name not in left_out]
    last = {name: node.name for node in left for name in node.input if name in wiring.makers}
    nodes = []
    for node in left:
        if node.op_type not in OPERATORS or len(node.output) > 1:
            raise BadInput(f"node '{node.name}': operator {node.op_type} cannot be trained through")
        layer = wiring.layer(node)
        has_axis = layer is not None and node.name in quantized
        axis = layer.axis if layer is not None and has_axis else None
        biased = node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in wiring.constants
        nodes.append(
            _Node(
                name=node.name,
                operator=OPERATORS[node.op_type],
                inputs=tuple(node.input),
                output=node.output[0],
                attributes={each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
                axis=axis,
                int_bias=has_axis and biased and dialect.quantized_bias and node.input[0] in setting.grids,
                last=tuple(name for name in dict.fromkeys(node.input) if last.get(name) == node.name),
            )
        )
    return nodes


def _distinct(setting: Setting) -> tuple[list[Grid], dict[str, int]]:
    """The activations' grids, each once, and which of them each tensor lies on."""
    activations = {name: grid for name, grid in setting.grids.items() if name in setting.wiring.makers}
    distinct = list({id(grid): grid for grid in activations.values()}.values())
    places = {id(grid): place for place, grid in enumerate(distinct)}
    return distinct, {name: places[id(grid)] for name, grid in activations.items()}


def _learned(wiring: Wiring) -> set[str]:
    """The constants that training changes: weights and biases of layers, scales and biases of norms."""
    names = {layer.weights for layer in wiring.layers()}
    for layer in wiring.layers():
        if layer.bias is not None:
            names.add(layer.bias[0].input[layer.bias[1]])
    for node in wiring.model.graph.node:
        names |= {node.input[place] for place in LEARNED.get(node.op_type, ()) if place < len(node.input)}
    return names


def _key(name: str) -> str:
    """A name that PyTorch takes for a parameter or module."""
    return name.replace(".", "|")
