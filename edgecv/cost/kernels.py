"""A network as the kernels that a backend runs: what is fused, what is free, and what each kernel works on.

A backend runs fewer kernels than a network has layers. The rules, the same for both readers:

- a batch normalization and a constant scale or offset go into the convolution or linear layer before them;
- an activation goes into the convolution or linear layer before it, if the backend has that pair (`Fusion`);
- an addition goes into the convolution before it, the larger of two, if the backend has that;
- reshapes are free; everything else is a kernel of its own;
- convolutions work in a blocked layout: what comes from or goes to a layer without it is reordered once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from edgecv.xray.graph import CONVOLUTIONS, Graph, Layer, Tensor

# The readers' names of activations -> one name each; those that cost the same share it.
_ACTIVATIONS = {
    **dict.fromkeys(("relu", "relu6", "clip", "hardtanh", "clamp", "clamp_min", "clamp_max", "leakyrelu"), "relu"),
    **dict.fromkeys(("prelu", "thresholdedrelu", "threshold"), "relu"),
    **dict.fromkeys(("sigmoid", "tanh", "erf", "elu", "selu", "celu", "softplus", "softsign", "logsigmoid"), "sigmoid"),
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    **dict.fromkeys(("silu", "swish", "mish", "quickgelu"), "silu"),
    **dict.fromkeys(("gelu", "fastgelu", "biasgelu"), "gelu"),
}
ACTIVATIONS = tuple(dict.fromkeys(_ACTIVATIONS.values()))
_MOVES = {"concat": "copy", "slice": "copy", "pad": "copy", "cast": "copy", "embedding": "copy", "quantize": "copy",
          "transpose": "transpose", "resize": "copy"}  # fmt: skip
_POOLS = {"pool": "pool", "global pool": "reduce", "reduce": "reduce", "softmax": "softmax"}
_BLOCKED = (
    "conv",
    "stem",
    "pointwise",
    "gate",
    "depthwise",
    "pool",
    "reduce",
    "scale",
    "binary",
    "affine",
    *ACTIVATIONS,
)
_CONVS = ("conv", "stem", "pointwise", "gate", "depthwise")
FUSING = (*_CONVS, "vector", "matrix")
PRODUCTS = (*FUSING, "matmul")
FEW_CHANNELS = 8  # below, a convolution reads its input as it is


@dataclass(frozen=True)
class Fusion:
    """What a backend runs together with a convolution, a linear layer or an addition or multiplication (elementwise).

    Names of activations, "add" of an activation, "constant" for adding or multiplying a constant.
    """

    conv: frozenset[str]
    linear: frozenset[str]
    elementwise: frozenset[str] = frozenset()

    def into(self, kind: str) -> frozenset[str]:
        """What runs together with a kind of kernel."""
        if kind in _CONVS:
            return self.conv
        if kind in ("vector", "matrix"):
            return self.linear
        return self.elementwise if kind in ("binary", "scale", "affine") else frozenset()


# onnxruntime: core/optimizer/conv_activation_fusion.cc, gemm_activation_fusion.cc, nchwc_transformer.cc (1.32).
# openvino: src/plugins/intel_cpu/src/graph_optimizer.cpp, FuseConvolutionAndSimpleOperation and others (2026.4).
_ALL = frozenset({*ACTIVATIONS, "constant"})
FUSIONS = {
    "onnxruntime": Fusion(frozenset({"relu", "sigmoid", "hardsigmoid", "add"}), frozenset({"relu"})),
    "openvino": Fusion(_ALL | {"add"}, _ALL | {"add"}, _ALL),
}
PLAIN = Fusion(frozenset({"relu"}), frozenset())  # of a backend without a row


@dataclass(frozen=True)
class Kernel:
    """One piece of work of a backend, at batch 1.

    layers: names of the layers that it runs, the main one first. inner, outer, places: a product makes places x outer
    numbers of sums of inner terms; elementwise kernels have outer x places numbers. rows: places along the first
    spatial axis. taps: numbers of a window. fused: what runs along ("add", "relu", ...). reordered: bytes that change
    layout before it. unknown: operations that no rule knows.
    """

    kind: str
    layers: tuple[str, ...]
    macs: int = 0
    inner: int = 1
    outer: int = 1
    places: int = 1
    rows: int = 1
    batch: int = 1
    taps: int = 1
    stride: int = 1
    read_bytes: int = 0
    write_bytes: int = 0
    weight_bytes: int = 0
    reordered: int = 0
    fused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass
class _State:
    """What is known while the layers are walked."""

    kernels: list[Kernel] = field(default_factory=list)
    maker: dict[str, int] = field(default_factory=dict)  # tensor -> the kernel that made it
    plain: set[str] = field(default_factory=set)  # tensors in plain layout


def kernels(graph: Graph, backend: str) -> list[Kernel]:
    """The kernels of a network on a backend, in the order in which they run."""
    fusion = FUSIONS.get(backend, PLAIN)
    readers: dict[str, int] = dict.fromkeys(graph.outputs, 2)  # nothing is fused behind an output
    for layer in graph.layers:
        for name in set(layer.inputs):
            readers[name] = readers.get(name, 0) + 1
    state = _State(plain=set(graph.inputs))
    for layer in graph.layers:
        if layer.kind == "reshape":
            _pass_on(state, layer)
            continue
        host = _host(state, graph, layer, fusion, readers)
        if host is None:
            _append(state, graph, layer)
        else:
            _fuse(state, graph, layer, host)
    return state.kernels


def _pass_on(state: _State, layer: Layer) -> None:
    """A reshape gives its input under another name."""
    for output in layer.outputs:
        state.plain.add(output)
        if layer.inputs[0] in state.maker:
            state.maker[output] = state.maker[layer.inputs[0]]


def _host(state: _State, graph: Graph, layer: Layer, fusion: Fusion, readers: dict[str, int]) -> int | None:
    """The kernel that a layer is fused into."""
    what = _fusable(graph, layer)
    if what is None:
        return None
    makers = {state.maker[name] for name in layer.inputs if name in state.maker and readers[name] == 1}
    hosts = [
        index
        for index in makers
        if what in fusion.into(state.kernels[index].kind) or (what == "fold" and state.kernels[index].kind in FUSING)
    ]
    return max(hosts, key=lambda index: state.kernels[index].macs, default=None)


def _fusable(graph: Graph, layer: Layer) -> str | None:
    """What a fusion rule calls a layer."""
    if layer.kind == "norm" and _is_batch_norm(layer):
        return "fold"
    if layer.kind == "activation":
        return activation(layer.op)
    if layer.kind in ("add", "multiply") and len(layer.inputs) == 1:
        return "constant"
    if layer.kind == "add" and len(layer.inputs) == 2 and _same_shape(graph, layer):
        return "add"
    return None


def _fuse(state: _State, graph: Graph, layer: Layer, host: int) -> None:
    """Run a layer along with a kernel."""
    kernel = state.kernels[host]
    what = _fusable(graph, layer)
    assert what is not None
    others = [name for name in layer.inputs if state.maker.get(name) != host]
    state.kernels[host] = replace(
        kernel,
        layers=(*kernel.layers, layer.name),
        read_bytes=kernel.read_bytes + sum(graph.tensors[name].bytes for name in others),
        weight_bytes=kernel.weight_bytes + layer.weight_bytes,
        fused=kernel.fused if what == "fold" else (*kernel.fused, what),
    )
    state.maker.update((name, host) for name in layer.outputs)
    if host_is_plain(kernel):
        state.plain.update(layer.outputs)


def host_is_plain(kernel: Kernel) -> bool:
    """Whether a kernel gives its output in plain layout."""
    return kernel.kind not in _BLOCKED


def _append(state: _State, graph: Graph, layer: Layer) -> None:
    """Make a kernel of a layer."""
    kernel = _kernel(graph, layer)
    blocked = kernel.kind in _CONVS and kernel.kind != "gate"
    sources = [graph.tensors[name] for name in dict.fromkeys(layer.inputs)]
    if blocked and kernel.kind != "stem":
        wrong = [each for each in sources if each.name in state.plain]
    elif kernel.kind in _BLOCKED:
        wrong = []
    else:
        wrong = [each for each in sources if each.name not in state.plain and _has_places(each)]
    kernel = replace(kernel, reordered=sum(each.bytes for each in wrong))
    state.kernels.append(kernel)
    state.maker.update((name, len(state.kernels) - 1) for name in layer.outputs)
    stays_plain = kernel.kind in _BLOCKED and not blocked and any(each.name in state.plain for each in sources)
    if host_is_plain(kernel) or stays_plain:
        state.plain.update(layer.outputs)


def _has_places(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[2] * tensor.shape[3] > 1


def _kernel(graph: Graph, layer: Layer) -> Kernel:
    inputs = [graph.tensors[name] for name in dict.fromkeys(layer.inputs)]
    output = graph.output_of(layer)
    common = Kernel(
        kind=_kind(graph, layer),
        layers=(layer.name,),
        macs=layer.macs,
        read_bytes=sum(each.bytes for each in inputs),
        write_bytes=sum(graph.tensors[name].bytes for name in layer.outputs),
        weight_bytes=layer.weight_bytes,
        taps=math.prod(layer.kernel),
        stride=max(layer.stride, default=1),
    )
    if layer.kind in CONVOLUTIONS:
        places = math.prod(output.shape[2:])
        inner = layer.channels[0] // layer.groups * common.taps
        return replace(common, inner=inner, outer=layer.channels[1], places=places, rows=output.shape[2])
    if layer.kind in ("linear", "matmul", "attention"):
        return _product(graph, layer, common)
    if layer.kind in ("softmax", "norm"):
        return replace(common, outer=output.shape[-1], places=math.prod(output.shape) // output.shape[-1])
    unknown = (layer.op,) if layer.kind == "other" or (common.kind == "binary" and layer.kind == "activation") else ()
    return replace(common, places=max(1, math.prod(output.shape)), unknown=unknown)


def _product(graph: Graph, layer: Layer, kernel: Kernel) -> Kernel:
    """Sizes of a matrix product: (batch) places x inner times inner x outer."""
    output = graph.output_of(layer).shape
    if layer.kind == "linear":
        inner, outer = layer.channels
        return replace(kernel, inner=inner, outer=outer, places=math.prod(output) // outer)
    places = output[-2] if len(output) > 1 else 1
    batch = math.prod(output[:-2])
    inner = max(1, layer.macs // max(1, math.prod(output)))
    return replace(kernel, inner=inner, outer=output[-1], places=places, batch=batch)


def _kind(graph: Graph, layer: Layer) -> str:
    """The cost model's name of a kernel's work."""
    if layer.kind in CONVOLUTIONS:
        if layer.kind == "depthwise conv":
            return "depthwise"
        if math.prod(graph.output_of(layer).shape[2:]) == 1:
            return "gate"
        if layer.channels[0] < FEW_CHANNELS:
            return "stem"
        return "pointwise" if layer.kind == "pointwise conv" else "conv"
    if layer.kind == "linear":
        return "vector" if math.prod(graph.output_of(layer).shape[:-1]) == 1 else "matrix"
    if layer.kind in ("matmul", "attention"):
        return "matmul"
    if layer.kind == "norm":
        return "affine" if _is_batch_norm(layer) else "norm"
    if layer.kind == "activation":
        return activation(layer.op) or "binary"
    if layer.kind in ("add", "multiply"):
        if len(layer.inputs) == 1:
            return "affine"
        return "binary" if _same_shape(graph, layer) else "scale"
    return _POOLS.get(layer.kind) or _MOVES.get(layer.kind) or "binary"


def activation(op: str) -> str | None:
    """The cost model's name of an activation, as either reader calls it; None when it has none."""
    return _ACTIVATIONS.get(
        op.lower().strip("_").replace("_", "").replace("clampmin", "clamp").replace("clampmax", "clamp")
    )


def _is_batch_norm(layer: Layer) -> bool:
    return layer.op.lower().replace("_", "").startswith(("batchnorm", "batchnormalization"))


def _same_shape(graph: Graph, layer: Layer) -> bool:
    return len({graph.tensors[name].shape for name in layer.inputs}) == 1
