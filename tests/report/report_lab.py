"""A small run folder, made by the real machinery: export, quantize, verify, bench."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgecv.run.folder import Candidate, Quantization
from edgecv_export import graph
from edgecv_export.export import export
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import bundle, records
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.verify import verify

NAME = "<b>tiny</b> & co"
LABELS = ("<script>alert(1)</script>", "a|b", "$x^2$", *"3456789")
FRAMES, PICTURED = 60, 40


class Tiny(nn.Module):
    """A convolution and a linear layer, untrained: its labels are its own affair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8 * 8 * 8, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


def frames(count: int) -> Image:
    """Real handwritten digits, coloured so that red and blue cannot be taken for each other."""
    grey = (load_digits().images[:count] * 15).astype(np.uint8)
    large = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in grey])
    return np.stack([large, large // 2, 255 - large], axis=-1)


def make_run(path: Path) -> Path:
    """A complete run folder, with hostile names and with frames on which int8 and PyTorch are wrong."""
    network, normalization, images = Tiny().eval(), Normalization(), frames(FRAMES + 60)
    checked, calibration = images[:FRAMES], images[FRAMES:]
    export(
        network, path / "bundle", name=NAME, preprocess=Preprocess((32, 32)), normalization=normalization,
        labels=LABELS, images=checked, provenance={"model": "<i>tiny</i>"},
    )  # fmt: skip
    tried = quantize(path / "bundle", calibration, QuantizeConfig(40, 16, ("layers", "convolutions"), ("min-max",)))
    candidates = tuple(
        Candidate(
            each.placement,
            each.ranges,
            each.agreement.share.value,
            each.agreement.divergence,
            each.p50_ms,
            each is tried.chosen,
        )
        for each in tried.candidates
    )
    (path / "bundle.quantize.json").write_bytes(records.encode(Quantization(tried.float_ms, candidates)))

    reference = graph.reference(graph.Deployed(network, normalization), checked)
    labels = reference.argmax(1)
    labels[::5] = (labels[::5] + 1) % len(LABELS)  # PyTorch is wrong on every fifth frame
    opened = Bundle(path / "bundle")
    verified = verify(opened, checked, reference, reference_name="PyTorch", labels=labels)
    evidence = opened.evidence().merged([each.entry for each in verified])
    evidence = evidence.merged(bench(opened, seconds=0.02, rounds=1))
    bundle.update(opened, evidence=evidence)

    outputs = {}
    for each in verified:
        entry, logits = each.entry, each.outputs["logits"]
        if entry.executed == "int8":
            logits = np.concatenate([np.roll(logits[:3], 1, axis=1), logits[3:]])  # int8 is wrong on the first frames
        outputs[f"outputs/{entry.variant}/{entry.backend}/{entry.hint}/{entry.sha256}"] = logits
    names = np.array([f"<i>{index}</i>.jpg" for index in range(FRAMES)])
    np.savez(path / "verify.npz", images=checked[:PICTURED], reference=reference, labels=labels, names=names, **outputs)
    (path / "train").mkdir()
    cv2.imwrite(str(path / "train" / "batch-1.png"), checked[0])
    (path / "train" / "curves.csv").write_text(
        "epoch,lr,train_loss,train_top1,val_loss,val_top1,images_per_s,seconds\n"
        "1,0.1,2.0,0.2,nan,0.25,100.0,1.0\n2,0.05,1.0,0.7,1.1,0.65,100.0,1.0\n"
    )
    steps = {"train": {"seconds": 61.2}, "export <script>alert(2)</script>": {"seconds": 2.5, "inputs": "abc"}, "x": {}}
    (path / "state.json").write_text(json.dumps({"steps": steps, "version": 1}))
    (path / "recipe.yaml").write_text("name: tiny # </pre><script>alert(3)</script>\n")
    return path
