"""How a model is loaded: the options of `edgecv_runtime.load`, the same on every verb that loads one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

import edgecv_runtime as rt
from edgecv_runtime.backends import DEFAULT_DEVICE

R = TypeVar("R")


@dataclass(frozen=True)
class Loading:
    """What was asked for; each field is an option of every verb that `loads`, and one more field is one more option."""

    backend: Annotated[str, typer.Option("--backend", help="auto, onnxruntime, openvino, kserve:URL, ...")] = "auto"
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bf16, int8, or a variant's name.")] = (
        "auto"
    )
    device: Annotated[str, typer.Option("--device", help="As the backend names it: cpu, cuda:1, gpu, npu.")] = (
        DEFAULT_DEVICE
    )
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 leaves the number open.")] = 0
    goal: Annotated[str, typer.Option("--goal", help="latency, throughput, or a bound such as 'p99 <= 20 ms'.")] = (
        "latency"
    )
    describe: Annotated[
        Path | None,
        typer.Option(
            "--describe", metavar="FILE", help="Of an ONNX file: YAML with task, labels, preprocess, normalization, ..."
        ),
    ] = None
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Score from which on a detector's boxes are shown.")
    ] = None
    self_test: Annotated[bool, typer.Option("--self-test", help="Run the bundle's golden inputs first.")] = False

    def model(self, source: Path) -> rt.Model[Any]:
        """Load a bundle or an ONNX file as it was asked for."""
        return rt.load(source, **self.asked())

    def asked(self) -> dict[str, Any]:
        """The arguments of `load`."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"description": given.pop("describe"), **given}


def loads(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command an option for each field of `Loading`, in the place of its parameter `loading`."""
    kinds = get_type_hints(Loading, include_extras=True)
    options = [
        inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=getattr(Loading, name), annotation=annotation
        )
        for name, annotation in kinds.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> R:
        loading = Loading(**{name: given.pop(name) for name in kinds})
        return command(loading=loading, **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())
    at = [parameter.name for parameter in own].index("loading")
    parameters = own[:at] + options + own[at + 1 :]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
