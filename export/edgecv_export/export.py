"""Export: a trained network becomes a bundle with one proven float32 variant and golden inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import edgecv_runtime
from edgecv_export import graph, merge, parity
from edgecv_export.graph import Deployed
from edgecv_export.interface import BATCH, INPUT, check_frames
from edgecv_runtime import bundle, onnxfile
from edgecv_runtime.errors import BadInput
from edgecv_runtime.golden import Golden, Picture
from edgecv_runtime.head import WHOLE, ClassificationHead
from edgecv_runtime.images import decode
from edgecv_runtime.manifest import Budget, Manifest, TensorSpec, Variant
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.tasks.scores import check as check_scores
from edgecv_runtime.verify import pictures

GOLDEN_IMAGES = 8
OUTPUT = "logits"
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
    labels: Sequence[str],
    images: Image,
    scores: str | None = None,
    thresholds: Sequence[float] = (),
    budget: Budget | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network to a bundle, behind the parity gate.

    network: takes (N, C, H, W) normalized float tensors and gives (N, classes); it is put into eval mode.
    scores: what it gives: "logits", "probabilities", "sigmoid", "sigmoid-logits" or "percent" (docs/api.md); it may be
    left out where the graph proves it. thresholds: of labels of which several may hold, one for all or one a label.
    images: at least 8 real images, (N, H, W, C) uint8, preprocessed: the gate runs on them, and the first 8 travel as
    golden inputs. Nothing is written when the gate refuses. Parallel linear branches become one convolution (see
    `merge`); the gate compares the result with the network as given.
    Raises ParityError, ComputationError, or BadInput when labels or channels do not match, or nothing says what the
    network gives.
    """
    if len(normalization.mean) != preprocess.channels:
        raise BadInput(f"normalization has {len(normalization.mean)} channels, preprocessing {preprocess.channels}")
    check_frames(images, max(parity.BATCHES), "export")
    deployed = Deployed(network, normalization)
    asked = ClassificationHead(tuple(labels), "logits" if scores is None else check_scores(scores), tuple(thresholds))
    facts = {"edgecv": edgecv_runtime.__version__, "torch": str(torch.__version__), **(provenance or {})}
    metadata = {"edgecv.name": name, "edgecv.task": asked.task, "edgecv.labels": "\n".join(labels)}
    model = graph.to_onnx(deployed, preprocess.size, preprocess.channels, OUTPUT, metadata)
    model, merged = merge.merge_branches(model)
    graph.check(model)
    facts |= {"merged": f"{merged} convolutions from parallel branches"} if merged else {}
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / FLOAT32.file
        file.write_bytes(model.SerializeToString())
        header = onnxfile.read(file)
        task = ClassificationTask(asked, header.outputs, ending=header.endings[OUTPUT], told=scores is not None)
        outputs = graph.reference(deployed, images[:GOLDEN_IMAGES], batch=GOLDEN_IMAGES)
        meaning = task.settle(outputs)
        differences = parity.gate(file, deployed, images, parity.SHARES if meaning.scores in WHOLE else parity.LOGITS)
        golden = Golden(
            images=images[:GOLDEN_IMAGES],
            outputs={OUTPUT: outputs},
            labels=tuple(labels),
            pictures=_pictures(deployed, preprocess),
        ).sealing(FLOAT32.file, file.read_bytes())
        manifest = Manifest(
            name=name,
            head=ClassificationHead(tuple(labels), meaning.scores, meaning.thresholds),
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
    rows = zip(cards.items(), pixels, graph.reference(deployed, pixels), strict=True)
    return tuple(Picture(name, data, image, {OUTPUT: logits}) for (name, data), image, logits in rows)
