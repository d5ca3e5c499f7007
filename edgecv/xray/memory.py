"""How much memory the activations of a network need at the same time."""

from __future__ import annotations

from edgecv.xray.graph import Graph

# Layers that may write their result over their input.
_IN_PLACE = ("activation", "norm", "add", "multiply", "softmax")


def peak_memory(graph: Graph, *, in_place: bool = False) -> int:
    """Most bytes of activations that are needed at the same time, inputs and outputs of the network included.

    A tensor lives from the layer that makes it to the last one that reads it; a reshape shares its input's memory.
    in_place: elementwise layers, normalizations and softmax write over an input of the same size that dies with them.
    """
    home = {name: name for name in graph.inputs}  # tensor -> the tensor whose memory it lies in
    last_use: dict[str, int] = {}
    for step, layer in enumerate(graph.layers):
        for name in layer.inputs:
            last_use[home[name]] = step
        for name in layer.outputs:
            home[name] = home[layer.inputs[0]] if layer.kind == "reshape" else name
    for name in graph.outputs:
        last_use[home[name]] = len(graph.layers)
    live = {name: graph.tensors[name].bytes for name in graph.inputs}
    peak = sum(live.values())
    for step, layer in enumerate(graph.layers):
        dying = {name for name in live if last_use.get(name, -1) <= step}
        made = {name: graph.tensors[name].bytes for name in layer.outputs if home[name] == name}
        needed = sum(live.values()) + sum(made.values())
        if in_place and layer.kind in _IN_PLACE:
            reused = [home[name] for name in layer.inputs if home[name] in dying]
            needed -= next((live[name] for name in reused if live[name] == sum(made.values())), 0)
        peak = max(peak, needed)
        live = {name: size for name, size in live.items() if name not in dying}
        live |= {name: size for name, size in made.items() if last_use.get(name, -1) > step}
    return peak
