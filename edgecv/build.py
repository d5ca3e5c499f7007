"""`edgecv build`: the steps of a recipe, what each depends on and what it makes.

The steps are chained by content: what a step depends on is named by hashes of the outputs before it, so that a change
goes as far down as it matters. The bundle is changed only atomically, so a build can be stopped at any moment, and what
is made anew replaces what is there only when it is whole (`edgecv.staging`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from edgecv import journal, models, preflight, report, trainings
from edgecv.data import Dataset, Images, bytes_to_write, cached, load
from edgecv.journal import Step
from edgecv.recipe import Quantizing, Recipe
from edgecv.report import front, verified
from edgecv.report.run import beside
from edgecv.staging import RECIPE, Workplace
from edgecv.tasks.augment import training_view
from edgecv.train import TrainConfig, fit
from edgecv.train.fit import check_labels, statistics_images
from edgecv.train.quantized import train_quantized
from edgecv_export import graph
from edgecv_export.calibrate import sample
from edgecv_export.explain import explain
from edgecv_export.export import GOLDEN_IMAGES, export
from edgecv_export.parity import BATCHES
from edgecv_export.quantize import convert, quantize
from edgecv_runtime import backends, bundle, files, machine
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.errors import BackendUnavailable, BadInput, BundleError
from edgecv_runtime.offers import offered
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.verify import verify

PARITY_IMAGES = max(GOLDEN_IMAGES, *BATCHES)


@dataclass(frozen=True)
class Built:
    """Where a build put things, which steps ran and which were skipped, and what each step that is done took."""

    folder: Path
    ran: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


def build(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: str = "report",
    say: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> Built:
    """Run a recipe's steps up to `until` in a run folder.

    say: takes one line per step. progress: whether long steps may draw a progress bar on stderr.
    Raises what the steps raise; what was done before stays done. BadInput when another build uses the folder.
    """
    _check_task(recipe)
    place = Workplace(Path(folder), _as_yaml(recipe))
    run = _Run(recipe, place, say, progress)
    names = [step.name for step in run.steps()]
    if until not in names:
        raise BadInput(f"no step '{until}' in this recipe; it has: {', '.join(names)}")
    if recipe.train is None:
        _ = run.deployed  # weights that do not fit are refused before anything is written
    with journal.locked(place.run):
        place.begin()
        record = journal.Journal(place.folder, say)
        ran: list[str] = []
        skipped: list[str] = []
        asked = run.steps()[: names.index(until) + 1]
        for number, step in enumerate(asked):
            if record.unchanged(step):
                record.skip(step)
                skipped.append(step.name)
                continue
            if not ran:
                for each in asked[number:]:
                    for note in each.check():
                        say(f"{each.name}: {note}")
            if step.name == "report":
                place.publish()  # it is of what the run holds
            elif record.knows(names[names.index(step.name) :]) or place.holds(step.name):
                place.protect()
            record.folder = place.folder
            record.do(step)
            ran.append(step.name)
        place.publish()
        record.folder = place.run
    return Built(place.run, tuple(ran), tuple(skipped), record.seconds())


def _check_task(recipe: Recipe) -> None:
    """Refuse a network whose outputs no step here understands."""
    spec = models.spec(recipe.model.name)
    if spec.task != "classification":
        raise BadInput(
            f"recipe '{recipe.name}': {spec.name} is a model for {spec.task}, and recipes make classifiers "
            "(`edgecv models` lists the tasks); train it in Python from edgecv.models.create"
        )


class _Run:
    """One recipe in one folder; heavy things (data, network) are made when a step first needs them."""

    def __init__(self, recipe: Recipe, place: Workplace, say: Callable[[str], None], progress: bool) -> None:
        self.recipe = recipe
        self._place = place
        self._say = say
        self._progress = progress

    def steps(self) -> list[Step]:
        """The recipe's steps in order."""
        recipe = self.recipe
        steps = [
            Step("train", self._train_inputs, self._train, self._has_weights, self._check_train),
            Step("export", self._export_inputs, self._export, self._has_float32, self._check_export),
            Step("quantize", self._quantize_inputs, self._quantize, self._has_variants, self._check_quantize),
            Step("verify", self._verify_inputs, self._verify, self._is_verified, self._check_backends),
            Step("bench", self._bench_inputs, self._bench, self._is_timed, self._check_backends),
            Step("report", self._report_inputs, self._report, self._has_report, self._check_report),
        ]
        left_out = {"train": recipe.train, "quantize": recipe.quantize}
        return [step for step in steps if left_out.get(step.name, True) is not None]

    # What the steps share

    @property
    def folder(self) -> Path:
        """Where the steps work: the run folder, or `next/` in it."""
        return self._place.folder

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def weights(self) -> Path:
        return self.folder / "train" / "weights.safetensors"

    @cached_property
    def data(self) -> Dataset:
        self._say(f"data: {self.recipe.data.source} {self.recipe.data.path or ''}".rstrip())
        dataset = load(self.recipe.data)
        for note in dataset.notes:
            self._say(f"data: {note}")
        self._say(f"data: {dataset.summary()}")
        return dataset

    @cached_property
    def source(self) -> models.WeightSource | None:
        """The published weights that the recipe names, if it names some."""
        rows = models.spec(self.recipe.model.name).weights
        return next((row for row in rows if row.name == self.recipe.model.weights), None)

    @property
    def preprocess(self) -> Preprocess:
        if self.recipe.preprocess is not None:
            return self.recipe.preprocess
        if self.source:
            return self.source.preprocess
        height, width = models.spec(self.recipe.model.name).size
        return Preprocess((height, width))

    @property
    def normalization(self) -> Normalization:
        if self.recipe.normalization is not None:
            return self.recipe.normalization
        return self.source.normalization if self.source else models.spec(self.recipe.model.name).normalization

    @property
    def labels(self) -> tuple[str, ...]:
        if self.data.classes:
            return self.data.classes
        if self.source is None:
            raise BadInput(f"data source '{self.recipe.data.source}' has no labels, and the weights name none")
        return tuple(models.labels(self.source.labels))

    def network(self, weights: str | Path | None) -> models.Network:
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
        finished = self.weights if self.recipe.train else self.recipe.model.weights
        return graph.Deployed(self.network(finished), self.normalization)

    def frames(self, images: Images) -> NDArray[np.uint8]:
        """Images preprocessed, from a cache on disk."""
        return cached(images, self.preprocess, self._place.cache)

    @property
    def scored(self) -> Images:
        """What a finished bundle is scored on: images that chose nothing, where the data set keeps some apart."""
        images = self.data.val if self.data.test is None else self.data.test
        return images.take(self.recipe.verify.frames)

    @property
    def division(self) -> verified.Division:
        return "validation" if self.data.test is None else "test"

    # What is known of each step before any runs

    def _check_train(self) -> Iterator[str]:
        config, data = self.recipe.train, self.data
        assert config is not None
        preflight.packages("train", ("kornia", "lightning_fabric", "matplotlib", "safetensors"), "train")
        check_labels(data)
        yield from preflight.images(data, config)
        yield from preflight.published(self.source, self.preprocess)
        network = self.network(self.recipe.model.weights)
        views = [
            (data.train, training_view(self.preprocess, config.augment)),
            (data.val, self.preprocess),
            (statistics_images(data.train, config), self.preprocess),
        ]
        decoded = sum(bytes_to_write(images, view, self._place.cache) for images, view in views)
        preflight.room(self._place.run, decoded, network)
        preflight.network(network, self.recipe.model.name, self.preprocess, len(data.classes), len(data.train), config)

    def _check_export(self) -> Iterator[str]:
        preflight.packages("export", ("onnx", "onnxruntime"), "export")
        preflight.parity(self.data, PARITY_IMAGES)
        files.check_replaceable(self._place.run / "bundle")
        if self.recipe.train is None:
            yield from preflight.published(self.source, self.preprocess)

    def _check_quantize(self) -> Iterator[str]:
        config = self.recipe.quantize
        assert config is not None
        if config.train is not None and self.data.train.labels is None:
            raise BadInput(f"quantize.train needs labels, and data source '{self.recipe.data.source}' has none")
        if config.int8:
            yield from preflight.calibration(self.data, config)

    def _check_backends(self) -> Iterator[str]:
        if not backends.available():
            raise BackendUnavailable("no backend works here to verify with, onnxruntime will do", extra="onnxruntime")
        yield from ()

    def _check_report(self) -> Iterator[str]:
        preflight.packages("report", ("jinja2", "matplotlib"), "export")
        files.check_place(self._place.run / "report.html")
        yield from ()

    # The steps: what each depends on, and what it does

    def _train_inputs(self) -> object:
        inputs = [self.recipe.model, self._given_weights(), self.recipe.train, self.preprocess, self.normalization]
        return [*inputs, _prints(self.data)]

    def _given_weights(self) -> str:
        """What the recipe's weights are: a published file's checksum, or the hash of the user's own file."""
        weights = self.recipe.model.weights
        if weights is None or self.source is not None:
            return self.source.sha256 if self.source else ""
        path, copy = models.named(weights)
        return f"{files.sha256(path)}{copy or ''}" if path.is_file() else weights

    def _train(self) -> dict[str, str]:
        assert self.recipe.train is not None
        network = self.network(self.recipe.model.weights)
        self._take_up("train", self._train_inputs())
        result = fit(
            network,
            self.data,
            self.preprocess,
            self.normalization,
            self.recipe.train,
            self.folder / "train",
            decoded=self._place.cache,
            progress=self._progress,
        )
        self._say(
            f"train: {result.metric} {result.score:.2%} on validation at its best epoch, {result.best_epoch} of "
            f"{result.epochs}, {result.last_score:.2%} at the last; {result.seconds:.0f} s"
        )
        return {"weights": files.sha256(self.weights)}

    def _take_up(self, name: str, inputs: object) -> Path:
        """The folder of a training: of these inputs, with the recipe beside them; others are set aside."""
        folder, home = self.folder / name, self._place.run / name
        found = trainings.take_up(folder, home, inputs)
        files.write(folder / RECIPE, _as_yaml(self.recipe))
        if found is not None:
            self._say(f"train: {found.name} was trained with these settings, and is taken up again")
        return folder

    def _has_weights(self, outputs: dict[str, str]) -> bool:
        return self.weights.is_file() and files.sha256(self.weights) == outputs["weights"]

    def _export_inputs(self) -> object:
        recipe = self.recipe
        weights = files.sha256(self.weights) if recipe.train else self._given_weights()
        return [
            recipe.name,
            recipe.model,
            self.preprocess,
            self.normalization,
            recipe.budget,
            weights,
            _prints(self.data),
        ]

    def _export(self) -> dict[str, str]:
        images = self.data.val.take(PARITY_IMAGES)
        frames = np.asarray(self.frames(images))
        if len(images) < PARITY_IMAGES:  # of a small set, training images too: parity asks for pictures, not for labels
            more = self.data.train.take(PARITY_IMAGES - len(images))
            frames = np.concatenate([frames, np.asarray(self.frames(more))])
        provenance = {"architecture": self.recipe.model.name, "data": self.recipe.data.source}
        if self.source and not self.recipe.train:
            provenance["weights"] = f"{self.source.name}, {self.source.origin}"
        done = export(
            self.deployed.network,
            self.bundle,
            name=self.recipe.name,
            preprocess=self.preprocess,
            normalization=self.normalization,
            labels=self.labels,
            images=frames,
            budget=self.recipe.budget,
            provenance=provenance,
        )
        if done.merged:
            self._say(f"export: {done.merged} convolutions took the place of parallel branches and norms")
        worst = ", ".join(f"{name} {difference:.1e}" for name, difference in done.parity.items())
        self._say(
            f"export: equals PyTorch at batch {', '.join(map(str, BATCHES))} (largest relative difference: {worst})"
        )
        return {"float32": self._hash("float32")}

    def _has_float32(self, outputs: dict[str, str]) -> bool:
        return self._hash("float32") == outputs["float32"]

    def _quantize_inputs(self) -> object:
        inputs = [self._hash("float32"), self.recipe.quantize, self.recipe.budget, self.data.train.fingerprint()]
        trains = self.recipe.quantize is not None and self.recipe.quantize.train is not None
        return [*inputs, self.recipe.train, _prints(self.data)] if trains else inputs

    def _quantize(self) -> dict[str, str]:
        config = self.recipe.quantize
        assert config is not None
        if not config.int8:
            convert(self.bundle)
            beside(self.bundle, "quantize").unlink(missing_ok=True)  # of a search that this recipe asked for before
            self._say("quantize: converted to half precision, without a search")
            return {name: self._hash(name) for name in config.dialects}
        labelled = self.data.val.labels is not None
        images = self.frames(self.data.train.take(config.images + (0 if labelled else config.check_images)))
        check = self.data.val.take(config.check_images) if labelled else None
        done = quantize(
            self.bundle,
            np.asarray(images),
            config,
            _lines(self._say, "quantize", self._progress),
            check=None if check is None else np.asarray(self.frames(check)),
            labels=None if check is None else check.labels,
            book=beside(self.bundle, "trials"),
        )
        front.keep(done, self.recipe.budget, self.bundle)
        for line in explain(done, self.recipe.budget):
            self._say(f"quantize: {line}")
        for dialect in config.int8 if config.train is not None else ():
            self._train_quantized(config, dialect, images)
        hashes = self._hashes()
        return {name: hashes[name] for name in config.dialects}

    def _train_quantized(self, config: Quantizing, dialect: str, images: Image) -> None:
        assert config.train is not None
        with bundle.Bundle(self.bundle) as opened:
            variant = opened.manifest.variant(dialect)
        folder = self._take_up(f"train-quantized/{dialect}", [self._quantize_inputs(), variant and variant.calibration])
        check = self.data.val.take(config.check_images)
        assert check.labels is not None
        done = train_quantized(
            self.bundle,
            self.deployed.network,
            self.data,
            sample(np.asarray(images), config.images),
            np.asarray(self.frames(check)),
            check.labels,
            self.recipe.train or TrainConfig(),
            config.train,
            folder,
            dialect=dialect,
            decoded=self._place.cache,
            progress=self._progress,
        )
        self._say(f"quantize: {done}")

    def _has_variants(self, outputs: dict[str, str]) -> bool:
        return all(self._hash(name) == digest for name, digest in outputs.items())

    def _verify_inputs(self) -> object:
        return [self._hashes(), self.scored.fingerprint(), self.division, machine.this().key, backends.available()]

    def _verify(self) -> dict[str, str]:
        images = self.scored
        frames = np.asarray(self.frames(images))
        expected = graph.reference(self.deployed, frames)
        with bundle.Bundle(self.bundle) as opened:
            done = verify(
                opened,
                frames,
                expected,
                reference_name="PyTorch float32",
                labels=images.labels,
                frames_name=f"{self.division} images",
            )
            evidence = opened.evidence().merged([each.entry for each in done])
            bundle.update(opened, evidence=evidence)
        files.write(self.folder / "verify.npz", verified.pack(done, frames, expected, images, self.division))
        if images.labels is not None:
            chose = "chose nothing before" if self.division == "test" else "also chose the epoch and the int8 file"
            self._say(f"verify: scored on {len(images)} {self.division} images, which {chose}")
        for each in done:
            entry = each.entry
            if entry.agreement is None:
                self._say(f"verify: {entry.variant} on {entry.backend} {entry.failed}")
                continue
            scored = f"top-1 {entry.score.value:.2%}, " if entry.score else ""
            self._say(
                f"verify: {entry.variant} on {entry.backend} ran in {entry.executed}: {scored}"
                f"agrees with PyTorch on {entry.agreement.share.value:.2%} of {entry.agreement.share.count}"
            )
        return {}

    def _bench_inputs(self) -> object:
        return [self._hashes(), self.recipe.bench, machine.this().key, backends.available()]

    def _bench(self) -> dict[str, str]:
        config = self.recipe.bench
        say = _lines(self._say, "bench", self._progress)
        with bundle.Bundle(self.bundle) as opened:
            done = bench(opened, seconds=config.seconds, rounds=config.rounds, threads=config.threads, progress=say)
            evidence = opened.evidence().merged(done)
            bundle.update(opened, evidence=evidence)
            offers = offered(opened.manifest, evidence, machine.this())
        for variant in opened.manifest.variants:
            for name, reason in offers.withheld(variant.name).items():
                self._say(f"bench: {variant.name} is not offered on {name}: {reason}")
        return {}

    def _report_inputs(self) -> object:
        return files.sha256(self.bundle / bundle.MANIFEST)

    def _report(self) -> dict[str, str]:
        report.write([self.folder], self.folder / "report.html")
        return {}

    def _has_report(self, _: dict[str, str]) -> bool:
        return (self._place.run / "report.html").is_file()

    # What is in the bundle now

    def _hashes(self) -> dict[str, str]:
        try:
            with bundle.Bundle(self.bundle) as opened:
                return {variant.name: opened.sha256(variant.name) for variant in opened.manifest.variants}
        except BundleError:
            return {}

    def _hash(self, variant: str) -> str:
        return self._hashes().get(variant, "")

    def _is_verified(self, _: dict[str, str]) -> bool:
        return self._measured("agreement")

    def _is_timed(self, _: dict[str, str]) -> bool:
        return self._measured("latency")

    def _measured(self, what: str) -> bool:
        """Whether every variant has that piece of evidence from this machine, on every backend."""
        with bundle.Bundle(self.bundle) as opened:
            entries = opened.evidence().entries
            done = [each for each in entries if (each.failed or getattr(each, what)) and _is_here(each.machine)]
            found = {(each.sha256, each.backend) for each in done}
            return all((digest, name) in found for digest in self._hashes().values() for name in backends.available())


def _is_here(where: object) -> bool:
    return getattr(where, "key", "") == machine.this().key


def _prints(data: Dataset) -> list[object]:
    return [data.train.fingerprint(), data.val.fingerprint(), data.classes]


def _as_yaml(recipe: Recipe) -> bytes:
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False).encode()


def _lines(say: Callable[[str], None], step: str, progress: bool) -> Callable[[str], None]:
    """Progress of a step as lines; nothing when progress is off."""
    return (lambda text: say(f"{step}: {text}")) if progress else (lambda _: None)
