"""What the steps of a build share: the recipe and its folder, the data and the network, what is in the bundle now."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from edgecv import models
from edgecv.data import Dataset, Images, cached, load
from edgecv.recipe import Recipe
from edgecv.run import drawn, trainings, verified
from edgecv.run.staging import RECIPE, Workplace
from edgecv.tasks import Deployment, deployment
from edgecv_export import graph
from edgecv_runtime import backends, bundle, files, machine, tasks
from edgecv_runtime.errors import BadInput, BundleError
from edgecv_runtime.geometry import View
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.tasks import Task


class Context:
    """One recipe in one folder; heavy things (data, network) are made when a step first needs them.

    say: takes one line per event. progress: whether long steps may draw a progress bar on stderr.
    """

    def __init__(self, recipe: Recipe, place: Workplace, say: Callable[[str], None], progress: bool) -> None:
        self.recipe = recipe
        self.place = place
        self.say = say
        self.progress = progress

    def lines(self, step: str) -> Callable[[str], None]:
        """Progress of a step as lines; nothing when progress is off."""
        return (lambda text: self.say(f"{step}: {text}")) if self.progress else (lambda _: None)

    def prints(self) -> list[object]:
        """What the data are, by their content."""
        return [self.data.train.fingerprint(), self.data.val.fingerprint(), self.data.classes]

    @property
    def folder(self) -> Path:
        """Where the steps work: the run folder, or `next/` in it."""
        return self.place.folder

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    @property
    def weights(self) -> Path:
        """The weights of the training's best epoch."""
        return self.folder / "train" / "weights.safetensors"

    @cached_property
    def data(self) -> Dataset:
        """The recipe's images."""
        self.say(f"data: {self.recipe.data.source} {self.recipe.data.path or ''}".rstrip())
        dataset = load(self.recipe.data)
        for note in dataset.notes:
            self.say(f"data: {note}")
        self.say(f"data: {dataset.summary()}")
        return dataset

    @cached_property
    def source(self) -> models.WeightSource | None:
        """The published weights that the recipe names, if it names some."""
        rows = models.spec(self.recipe.model.name).weights
        return next((row for row in rows if row.name == self.recipe.model.weights), None)

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become the input: as the recipe says, else as the weights or the network want it."""
        if self.recipe.preprocess is not None:
            return self.recipe.preprocess
        spec = models.spec(self.recipe.model.name)
        return self.source.preprocess if self.source and self.source.model == spec.name else spec.preprocess

    @property
    def normalization(self) -> Normalization:
        """What the graph does to pixels, likewise."""
        if self.recipe.normalization is not None:
            return self.recipe.normalization
        return self.source.normalization if self.source else models.spec(self.recipe.model.name).normalization

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        if self.data.classes:
            return self.data.classes
        if self.source is None:
            raise BadInput(f"data source '{self.recipe.data.source}' has no labels, and the weights name none")
        return tuple(models.labels(self.source.labels))

    def network(self, weights: str | Path | None) -> models.Network:
        """The recipe's network with these weights."""
        return models.create(
            self.recipe.model.name,
            classes=len(self.labels),
            weights=weights,
            in_channels=self.preprocess.channels,
            seed=self.recipe.train.seed if self.recipe.train else None,
            new_heads=self.recipe.train is not None,
        )

    @cached_property
    def deployed(self) -> graph.Deployed:
        """The finished network as the device will see it, in PyTorch."""
        return graph.Deployed(self.deployment.network, self.normalization, self.deployment.outputs)

    @cached_property
    def deployment(self) -> Deployment:
        """The finished network with what its task puts behind it."""
        finished = self.weights if self.recipe.train else self.recipe.model.weights
        return deployment(models.spec(self.recipe.model.name).task, self.network(finished), self.labels)

    @cached_property
    def task(self) -> Task[Any]:
        """What results of the bundle mean."""
        with bundle.Bundle(self.bundle) as opened:
            return tasks.create(opened.manifest.head, opened.manifest.outputs)

    def views(self, images: Images) -> list[View] | None:
        """How the network sees images, where results lie in places of them; their files are read for their sizes."""
        return drawn.seen(images, self.preprocess) if self.task.spatial else None

    def frames(self, images: Images) -> NDArray[np.uint8]:
        """Images preprocessed, from a cache on disk."""
        return cached(images, self.preprocess, self.place.cache)

    @property
    def scored(self) -> Images:
        """What a finished bundle is scored on: images that chose nothing, where the data set keeps some apart."""
        images = self.data.val if self.data.test is None else self.data.test
        return images.take(self.recipe.verify.frames)

    @property
    def division(self) -> verified.Division:
        """What `scored` is of the data set."""
        return "validation" if self.data.test is None else "test"

    def given_weights(self) -> str:
        """What the recipe's weights are: a published file's checksum, or the hash of the user's own file."""
        weights = self.recipe.model.weights
        if weights is None or self.source is not None:
            return self.source.sha256 if self.source else ""
        path, copy = models.named(weights)
        return f"{files.sha256(path)}{copy or ''}" if path.is_file() else weights

    def take_up(self, name: str, inputs: object) -> Path:
        """The folder of a training: of these inputs, with the recipe beside them; others are set aside."""
        folder, home = self.folder / name, self.place.run / name
        found = trainings.take_up(folder, home, inputs)
        files.write(folder / RECIPE, as_yaml(self.recipe))
        if found is not None:
            self.say(f"train: {found.name} was trained with these settings, and is taken up again")
        return folder

    def hashes(self) -> dict[str, str]:
        """The hash of each file in the bundle by its variant; nothing when there is no bundle."""
        try:
            with bundle.Bundle(self.bundle) as opened:
                return {variant.name: opened.sha256(variant.name) for variant in opened.manifest.variants}
        except BundleError:
            return {}

    def hash(self, variant: str) -> str:
        """The hash of a variant's file, or an empty text."""
        return self.hashes().get(variant, "")

    def measured(self, what: str) -> bool:
        """Whether every variant has that piece of evidence from this machine, on every backend."""
        with bundle.Bundle(self.bundle) as opened:
            entries = opened.evidence().entries
            done = [
                each
                for each in entries
                if (each.failed or getattr(each, what)) and each.machine.key == machine.this().key
            ]
            found = {(each.sha256, each.backend) for each in done}
            return all((digest, name) in found for digest in self.hashes().values() for name in backends.available())


def as_yaml(recipe: Recipe) -> bytes:
    """A recipe as the file that reads as it."""
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False).encode()
