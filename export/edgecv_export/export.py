"""Export: a trained network becomes a bundle with one proven float32 variant and golden inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import edgecv_runtime
from edgecv_export import graph, merge, parity
from edgecv_export.graph import Deployed
from edgecv_export.interface import BATCH, INPUT, OUTPUT, check_frames
from edgecv_runtime import bundle, onnxfile, tasks
from edgecv_runtime.errors import BadInput
from edgecv_runtime.golden import Golden, Picture
from edgecv_runtime.head import ClassificationHead, Head
from edgecv_runtime.images import decode
from edgecv_runtime.manifest import Budget, Manifest, TensorSpec, Variant
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.tasks.scores import check as check_scores
from edgecv_runtime.verify import pictures

GOLDEN_IMAGES = 8
FLOAT32 = Variant(name="float32", file="model.onnx", precision="float32")


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
    outputs: Sequence[str] = (OUTPUT,),
    budget: Budget | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network to a bundle, behind the parity gate.

    network: takes (N, C, H, W) normalized float tensors and gives (N, classes); it is put into eval mode.
    labels, scores, thresholds: of a classifier: its classes; what it gives, "logits", "probabilities", "sigmoid",
    "sigmoid-logits" or "percent" (docs/api.md), which may be left out where the graph proves it; and of labels of which
    several may hold, one threshold for all or one a label.
    head, outputs: of a network for another task: what its outputs mean (see edgecv_runtime.head), and their names, for
    tensors that it gives in a tuple of that order, or in a dict under these names.
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
    deployed = Deployed(network, normalization, outputs)
    asked = head or ClassificationHead(
        tuple(labels), "logits" if scores is None else check_scores(scores), tuple(thresholds)
    )
    facts = {"edgecv": edgecv_runtime.__version__, "torch": str(torch.__version__), **(provenance or {})}
    metadata = {"edgecv.name": name, "edgecv.task": asked.task, "edgecv.labels": "\n".join(asked.labels)}
    model = graph.to_onnx(deployed, preprocess.size, preprocess.channels, metadata)
    model, merged = merge.merge_branches(model)
    graph.check(model)
    facts |= {"merged": f"{merged} convolutions from parallel branches"} if merged else {}
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / FLOAT32.file
        file.write_bytes(model.SerializeToString())
        header = onnxfile.read(file)
        sealed = graph.references(deployed, images[:GOLDEN_IMAGES], batch=GOLDEN_IMAGES)
        if isinstance(asked, ClassificationHead):
            asked = _settled(asked, header, sealed[outputs[0]], told=scores is not None or head is not None)
        tasks.create(asked, header.outputs)  # refuses outputs that do not fit
        differences = parity.gate(file, deployed, images, parity.LOGITS if asked.bound is None else parity.SHARES)
        golden = Golden(
            images=images[:GOLDEN_IMAGES],
            outputs=sealed,
            labels=asked.labels,
            pictures=_pictures(deployed, preprocess),
        ).sealing(FLOAT32.file, file.read_bytes())
        manifest = Manifest(
            name=name,
            head=asked,
            input=TensorSpec(INPUT, "uint8", (BATCH, *preprocess.size, preprocess.channels)),
            outputs=header.outputs,
            preprocess=preprocess,
            normalization=normalization,
            variants=(FLOAT32,),
            budget=budget or Budget(),
            provenance=facts,
        )
        bundle.write(path, manifest, {FLOAT32.file: file, bundle.GOLDEN: golden.to_bytes()})
    return Exported(Path(path), differences, merged)


def _pictures(deployed: Deployed, preprocess: Preprocess) -> tuple[Picture, ...]:
    """Test cards with what our preprocessing and PyTorch make of them."""
    cards = pictures.draw(preprocess)
    pixels = preprocess.batch([decode(data, name) for name, data in cards.items()])
    outputs = graph.references(deployed, pixels)
    return tuple(
        Picture(name, data, pixels[index], {output: values[index] for output, values in outputs.items()})
        for index, (name, data) in enumerate(cards.items())
    )


def _settled(
    asked: ClassificationHead, header: onnxfile.OnnxHeader, outputs: NDArray[np.float32], told: bool
) -> ClassificationHead:
    """A classifier's head with what its outputs mean, as was told, or as graph and first outputs prove."""
    (name,) = (each.name for each in header.outputs)
    meaning = ClassificationTask(asked, header.outputs, ending=header.endings[name], told=told).settle(outputs)
    return ClassificationHead(asked.labels, meaning.scores, meaning.thresholds)
