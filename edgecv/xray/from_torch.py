"""Read a PyTorch network: run it once without numbers, and note each operation with the module it belongs to.

The run takes place on the "meta" device, where tensors have shapes and no contents, so that the largest network needs
neither memory nor time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edgecv.xray.graph import Graph, Layer, Tensor
from edgecv.xray.torch_ops import NOTHING_DONE, SHAPE_KEPT, describe
from edgecv_runtime.errors import EdgecvError, ShapeError

INPUT = "input"


class Stored(NamedTuple):
    """A parameter or buffer of the network: how many numbers are learned, how many bytes are kept."""

    parameters: int
    bytes: int


def read(network: nn.Module, shape: Sequence[int], *, name: str = "") -> Graph:
    """Read a network as it infers, in eval mode: one layer per operation, parameters as published.

    network: takes one tensor of its weights' type and is left as it was; of its weights only the shapes are read.
    shape: of the input without the batch: (C, H, W) or (C, L).
    Raises ShapeError when the network cannot run on such an input, or decides by values what to compute.
    """
    name = name or type(network).__name__
    training = [(module, module.training) for module in network.modules()]
    weights = {key: tensor.detach().to("meta") for key, tensor in _named_tensors(network)}
    dtype = next((each.dtype for each in weights.values() if each.is_floating_point()), torch.float32)
    recorder = _Recorder({id(weights[key]): _stored(tensor) for key, tensor in _named_tensors(network)})
    try:
        network.eval()
        with torch.inference_mode(), _plain_attention(), recorder.watching(network), recorder:
            x = torch.empty((1, *shape), dtype=dtype, device="meta")
            outputs = functional_call(network, weights, recorder.start(x))
    except EdgecvError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as exc:  # forward() is anybody's code
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        size = "x".join(map(str, shape))
        raise ShapeError(f"{name} cannot be followed with an input of {size}: {reason}") from exc
    finally:
        for module, mode in training:
            module.training = mode
    return recorder.graph(name, outputs)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of the run, just below autograd, and makes layers of those that the input reaches."""

    def __init__(self, stored: dict[int, Stored]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stored = stored  # by id of the tensor
        self.layers: list[Layer] = []
        self.tensors: dict[str, Tensor] = {}
        self.modules: list[tuple[str, bool]] = []  # running modules, outermost first: name, whether it has none inside
        self._names: dict[int, str] = {}  # id of an activation -> its name
        self._made_of: dict[int, set[int]] = {}  # id of a constant -> ids of the stored tensors it was computed from
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # so that no id is used twice
        self._taken: dict[str, int] = {}

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Take a tensor as the network's input."""
        self._name(x, INPUT)
        return x

    def graph(self, name: str, outputs: Any) -> Graph:
        """What was seen."""
        given = [self._names[id(each)] for each in _flat(outputs) if id(each) in self._names]
        idle = sum(each.parameters for key, each in self.stored.items() if key not in self._seen)
        return Graph(name, "torch", (INPUT,), tuple(given), self.tensors, tuple(self.layers), idle)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Keep account of the module that is running."""
        hooks = []
        for name, module in network.named_modules():

            def enter(module: nn.Module, _arguments: Any, name: str = name) -> None:
                self.modules.append((name, not any(module.children())))

            def leave(_module: nn.Module, _arguments: Any, _output: Any) -> None:
                self.modules.pop()

            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        op = func.overloadpacket.__name__
        inputs = [each for each in _flat((args, kwargs)) if isinstance(each, torch.Tensor)]
        active = [each for each in inputs if id(each) in self._names]
        output = _run(func, op, args, kwargs)
        results = [each for each in _flat(output) if isinstance(each, torch.Tensor)]
        self._alive += [*inputs, *results]
        if not active:
            made_of = set[int]().union(*(self._sources(each) for each in inputs))
            self._made_of.update((id(each), made_of) for each in results)
        elif op in NOTHING_DONE and results[0].shape == active[0].shape and results[0].dtype == active[0].dtype:
            self._names[id(results[0])] = self._names[id(active[0])]
        elif any(isinstance(each, torch.Tensor) for each in _flat(output)):
            self._add(op, args, kwargs, inputs, active, results)
        return output

    def _add(self, op: str, args: Any, kwargs: Any, inputs: Any, active: Any, results: Any) -> None:
        """Note one layer."""
        named = tuple(self._names[id(each)] for each in active)
        constants = [each for each in inputs if id(each) not in self._names]
        fresh = set[int]().union(*(self._sources(each) for each in constants)) - self._seen
        self._seen |= fresh
        facts = describe(op, args, kwargs, tuple(results), lambda each: id(each) in self._names)
        name = self._free(op.rstrip("_"), facts["kind"])
        outputs = []
        for index, each in enumerate(results):
            outputs.append(name if index == 0 else f"{name}:{index}")
            self._name(each, outputs[-1])
        self.layers.append(
            Layer(
                name=name,
                op=op,
                inputs=named,
                outputs=tuple(outputs),
                parameters=sum(self.stored[each].parameters for each in fresh),
                weight_bytes=sum(self.stored[each].bytes for each in fresh),
                **facts,
            )
        )

    def _free(self, op: str, kind: str) -> str:
        """A name that no layer has: the module's where it has none inside, else the module's and the operation's."""
        module, is_leaf = self.modules[-1] if self.modules else ("", False)
        name = module if is_leaf and module and kind not in _BESIDE else f"{module}.{op}".lstrip(".")
        self._taken[name] = count = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _name(self, tensor: torch.Tensor, name: str) -> None:
        self._names[id(tensor)] = name
        self._alive.append(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.tensors[name] = Tensor(name, tuple(tensor.shape), dtype, tensor.element_size())

    def _sources(self, constant: torch.Tensor) -> set[int]:
        """The stored tensors that a constant is or was computed from."""
        return {id(constant)} if id(constant) in self.stored else self._made_of.get(id(constant), set())


# Kinds that a module without modules inside may have beside its own work, such as the padding of a convolution.
_BESIDE = ("pad", "reshape", "transpose", "slice", "cast")


def _run(func: Any, op: str, args: Any, kwargs: Any) -> Any:
    """Run an operation on the meta device, where tensors that the network makes itself are brought as well.

    Running is slow where the result's shape is plain, so that is not done.
    """
    if op in SHAPE_KEPT:
        return torch.empty_like(args[0])
    if op == "linear":
        return args[0].new_empty((*args[0].shape[:-1], args[1].shape[0]))
    if "device" in kwargs or not any(isinstance(each, torch.Tensor) for each in _flat(args)):
        return func(*args, **{**kwargs, "device": "meta"})
    return func(*tree_map(_without_values, args), **tree_map(_without_values, kwargs))


def _without_values(value: Any) -> Any:
    return value.to("meta") if isinstance(value, torch.Tensor) and value.device.type != "meta" else value


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _stored(tensor: torch.Tensor) -> Stored:
    learned = tensor.numel() if isinstance(tensor, nn.Parameter) else 0
    return Stored(learned, tensor.numel() * tensor.element_size())


def _flat(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and dicts, in order."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention layers run operation by operation, not as one opaque kernel."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
