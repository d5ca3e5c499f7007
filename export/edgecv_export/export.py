"""Export: a trained network becomes a bundle with one proven float32 variant and golden inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edgecv_runtime
from edgecv_export import graph, linear_norms, merge, parity, rewrite
from edgecv_export.graph import Deployed
from edgecv_export.interface import check_frames
from edgecv_export.sealing import FLOAT32, GOLDEN_IMAGES, Reference, seal
from edgecv_runtime.description import Description
from edgecv_runtime.errors import BadInput
from edgecv_runtime.forms import Form
from edgecv_runtime.forms.base import spec_of, translate
from edgecv_runtime.head import LOGITS, ClassificationHead, Head
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.tasks.scores import check as check_scores
from edgecv_runtime.verify.compare import Arrays, Compute

__all__ = ["FLOAT32", "GOLDEN_IMAGES", "Exported", "described", "export"]


@dataclass(frozen=True)
class Exported:
    """What an export proved: the largest difference from PyTorch per backend, relative to the largest output.

    merged: convolutions that took the place of several parallel branches and norms.
    """

    path: Path
    parity: dict[str, float]
    merged: int = 0


def export(
    network: nn.Module,
    path: str | Path,
    *,
    name: str,
    preprocess: Preprocess,
    normalization: Normalization,
    images: Image,
    labels: Sequence[str] = (),
    scores: str | None = None,
    thresholds: Sequence[float] = (),
    head: Head | None = None,
    outputs: Sequence[str] = (),
    form: Form | None = None,
    budget: Budget | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network to a bundle, behind the parity gate.

    network: takes (N, C, H, W) normalized float tensors and gives (N, classes); it is put into eval mode.
    labels, scores, thresholds: of a classifier: its classes; what it gives, "logits", "probabilities", "sigmoid",
    "sigmoid-logits" or "percent" (docs/api.md), which may be left out where the graph proves it; and of labels of which
    several may hold, one threshold for all or one a label.
    head, outputs: of a network for another task: what its outputs mean (see edgecv_runtime.head), and their names, for
    tensors that it gives in a tuple of that order, or in a dict under these names. form: how those become what the task
    wants, where they are not (see edgecv_runtime.forms); their names are then by default the dict's, or output0, ...
    images: at least 8 real images, (N, H, W, C) uint8, preprocessed: the gate runs on them, and the first 8 travel as
    golden inputs. Nothing is written when the gate refuses. Parallel linear branches become one convolution (see
    `merge`); the gate compares the result with the network as given.
    Raises ParityError, ComputationError, or BadInput when labels or channels do not match, or nothing says what the
    network gives.
    """
    if len(normalization.mean) != preprocess.channels:
        raise BadInput(f"normalization has {len(normalization.mean)} channels, preprocessing {preprocess.channels}")
    check_frames(images, max(parity.BATCHES), "export")
    if head is not None and (labels or scores is not None or thresholds):
        raise BadInput("labels, scores and thresholds are said by the head: leave them out")
    meaning = None if scores is None else check_scores(scores)
    asked = head or ClassificationHead(tuple(labels), meaning, tuple(thresholds))
    size, channels = preprocess.size, preprocess.channels
    names = tuple(outputs) or ((LOGITS,) if form is None else graph.names_of(network, size, channels))
    deployed = Deployed(network, normalization, names)
    facts = {"edgecv": edgecv_runtime.__version__, "torch": str(torch.__version__), **(provenance or {})}
    model = graph.to_onnx(deployed, size, channels, {})
    compute: Compute = partial(graph.references, deployed)
    if form is not None:
        model = _formed(model, form, asked, size, compute(images[:GOLDEN_IMAGES]))
        compute = partial(_translated, form, asked, size, compute)
    model, merged = merge.merge_branches(model)
    model, _ = linear_norms.merge_linear_norms(model)
    facts |= {"merged": f"{merged} convolutions from parallel branches"} if merged else {}
    sealed = seal(
        model,
        path,
        name=name,
        head=asked,
        preprocess=preprocess,
        normalization=normalization,
        images=images,
        reference=Reference(
            "PyTorch",
            compute,
            lambda file, frames: parity.first_difference(file, deployed, frames),
        ),
        budget=budget,
        provenance=facts,
    )
    return Exported(Path(path), sealed, merged)


def described(
    network: nn.Module,
    path: str | Path,
    description: Description,
    *,
    images: Image,
    name: str,
    budget: Budget | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network with what a description says of it: see `export`, and `edgecv_runtime.description`."""
    if description.normalization is None:
        raise BadInput("a network takes normalized floats: say normalization: {mean: [...], std: [...]}")
    return export(
        network,
        path,
        name=name,
        preprocess=description.preprocess,
        normalization=description.normalization,
        images=images,
        head=description.head,
        form=description.form,
        budget=budget,
        provenance=provenance,
    )


def _formed(model: Any, form: Form, head: Head, size: tuple[int, int], given: Arrays) -> Any:
    """The graph with the task's outputs behind those that the network gives."""
    import onnxslim

    form.check([spec_of(name, each) for name, each in given.items()], head, size)
    doubt = form.doubt(translate(form, head, given, size), size)
    if doubt:
        raise BadInput(doubt)
    made = tuple(spec.name for spec in form.made(head, size))
    names = rewrite.free(model.graph, made)
    rewrite.put_outputs(model.graph, form, head, size, given, names=names)
    return onnxslim.slim(model)


def _translated(form: Form, head: Head, size: tuple[int, int], compute: Compute, frames: Image) -> Arrays:
    return translate(form, head, compute(frames), size)
