"""From a proven float32 graph to a bundle: parity gate, golden inputs, manifest; no PyTorch in here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgecv_export import gate
from edgecv_export.interface import BATCH, INPUT, check
from edgecv_runtime import bundle, onnxfile, tasks
from edgecv_runtime.forms.single import Classified
from edgecv_runtime.golden import Golden, Picture
from edgecv_runtime.head import ClassificationHead, Head
from edgecv_runtime.images import decode
from edgecv_runtime.manifest import Budget, Manifest, TensorSpec, Variant
from edgecv_runtime.onnxfile import OnnxHeader
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.verify import pictures
from edgecv_runtime.verify.compare import Arrays, Compute

GOLDEN_IMAGES = 8
FLOAT32 = Variant(name="float32", file="model.onnx", precision="float32")


@dataclass(frozen=True)
class Reference:
    """What a graph must compute. name: in words. compute: outputs by name of (N, H, W, C) uint8 frames.

    where: says of a file and frames where in the network they start to differ.
    """

    name: str
    compute: Compute
    where: Callable[[Path, Image], str] = lambda _file, _frames: ""


def seal(
    model: Any,
    path: str | Path,
    *,
    name: str,
    head: Head,
    preprocess: Preprocess,
    normalization: Normalization,
    images: Image,
    reference: Reference,
    budget: Budget | None,
    provenance: Mapping[str, str],
    rows: int = 0,
) -> dict[str, float]:
    """Write a bundle of an onnx.ModelProto with our input, behind the parity gate -> largest differences by backend.

    images: at least 8 real images, preprocessed; the first 8 travel as golden inputs. head: of a classifier without
    `scores` graph and first outputs show them. rows: of a graph whose batch is fixed, how many it takes at once.
    Nothing is written when the gate refuses. Raises ParityError, ComputationError, BadInput where head and outputs do
    not match, BundleError where something else lies at `path`.
    """
    metadata = {"edgecv.name": name, "edgecv.task": head.task, "edgecv.labels": "\n".join(head.labels)}
    onnx.helper.set_model_props(model, metadata)
    check(model)
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / FLOAT32.file
        file.write_bytes(model.SerializeToString())
        header = onnxfile.read(file)
        wanted = reference.compute(images[:GOLDEN_IMAGES])
        head = _settled(head, header, wanted)
        tasks.create(head, header.outputs)  # refuses outputs that do not fit
        differences = gate.gate(
            file,
            reference.compute,
            images,
            gate.LOGITS if head.bound is None else gate.SHARES,
            name=reference.name,
            where=partial(reference.where, file),
            rows=rows,
        )
        golden = Golden(
            images=images[:GOLDEN_IMAGES],
            outputs=wanted,
            labels=head.labels,
            pictures=_pictures(reference.compute, preprocess),
        ).sealing(FLOAT32.file, file.read_bytes())
        manifest = Manifest(
            name=name,
            head=head,
            input=TensorSpec(INPUT, "uint8", (rows or BATCH, *preprocess.size, preprocess.channels)),
            outputs=header.outputs,
            preprocess=preprocess,
            normalization=normalization,
            variants=(FLOAT32,),
            budget=budget or Budget(),
            provenance=dict(provenance),
        )
        bundle.write(path, manifest, {FLOAT32.file: file, bundle.GOLDEN: golden.to_bytes()})
    return differences


def _pictures(compute: Compute, preprocess: Preprocess) -> tuple[Picture, ...]:
    """Test cards with what our preprocessing and the reference make of them."""
    cards = pictures.draw(preprocess)
    pixels = preprocess.batch([decode(data, name) for name, data in cards.items()])
    outputs = compute(pixels)
    return tuple(
        Picture(name, data, pixels[index], {output: np.asarray(values[index]) for output, values in outputs.items()})
        for index, (name, data) in enumerate(cards.items())
    )


def _settled(head: Head, header: OnnxHeader, outputs: Arrays) -> Head:
    """A classifier's head with what its outputs mean, as was told, or as graph and first outputs show."""
    if not isinstance(head, ClassificationHead):
        return head
    meaning = Classified().settling(head, header).settle(outputs[header.outputs[0].name])
    return ClassificationHead(head.labels, meaning.scores, meaning.thresholds)
