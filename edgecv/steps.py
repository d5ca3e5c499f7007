"""The steps of a build, one class each: what it depends on, what it makes, what can be known to go wrong before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from edgecv import report
from edgecv.data import bytes_to_write
from edgecv.recipe import Quantizing
from edgecv.recipe_train import as_before
from edgecv.run import drawn, preflight, searched, verified
from edgecv.run.context import Context
from edgecv.run.folder import beside
from edgecv.run.journal import Step
from edgecv.tasks.augment import training_view
from edgecv.train import TrainConfig, fit
from edgecv.train.fit import check_labels, statistics_images
from edgecv.train.quantized import train_quantized
from edgecv_export import classmap, graph
from edgecv_export.calibrate import sample
from edgecv_export.explain import explain
from edgecv_export.export import GOLDEN_IMAGES, export
from edgecv_export.parity import BATCHES
from edgecv_export.quantize import convert, quantize
from edgecv_runtime import backends, bundle, files, machine, records
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.errors import BadInput
from edgecv_runtime.offers import offered
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import classifying
from edgecv_runtime.verify import Outputs, fit_thresholds, verify, wants_thresholds

PARITY_IMAGES = max(GOLDEN_IMAGES, *BATCHES)


def of(context: Context) -> list[Step]:
    """The recipe's steps in order."""
    steps = [kind(context) for kind in (Train, Export, Quantize, Verify, Bench, Report)]
    left_out = {Train.name: context.recipe.train, Quantize.name: context.recipe.quantize}
    return [step for step in steps if left_out.get(step.name, True) is not None]


class _Step(Step):
    """A step on what all of them share."""

    def __init__(self, context: Context) -> None:
        self.on = context


class Train(_Step):
    """The training of the recipe's network: the weights of its best epoch."""

    name = "train"

    def check(self) -> Iterator[str]:
        config, data = self.on.recipe.train, self.on.data
        assert config is not None
        preflight.packages("train", ("kornia", "lightning_fabric", "matplotlib", "safetensors"), "train")
        check_labels(data)
        name = self.on.recipe.model.name
        yield from preflight.images(data, config)
        yield from preflight.published(self.on.recipe.model.name, self.on.source, self.on.preprocess)
        network = self.on.network(self.on.recipe.model.weights)
        views = [
            (data.train, training_view(self.on.preprocess, config.augment)),
            (data.val, self.on.preprocess),
            (statistics_images(data.train, config), self.on.preprocess),
        ]
        decoded = sum(bytes_to_write(images, view, self.on.place.cache) for images, view in views)
        preflight.room(self.on.place.run, decoded, network)
        preflight.network(network, name, self.on.preprocess, data, config)

    def inputs(self) -> object:
        inputs = [
            self.on.recipe.model,
            self.on.given_weights(),
            as_before(self.on.recipe.train),
            self.on.preprocess,
            self.on.normalization,
        ]
        return [*inputs, self.on.prints()]

    def run(self) -> dict[str, str]:
        assert self.on.recipe.train is not None
        network = self.on.network(self.on.recipe.model.weights)
        self.on.take_up("train", self.inputs())
        result = fit(
            network,
            self.on.data,
            self.on.preprocess,
            self.on.normalization,
            self.on.recipe.train,
            self.on.folder / "train",
            decoded=self.on.place.cache,
            progress=self.on.progress,
        )
        self.on.say(
            f"train: {result.metric} {result.score:.2%} on validation at its best epoch, {result.best_epoch} of "
            f"{result.epochs}, {result.last_score:.2%} at the last; {result.seconds:.0f} s"
        )
        return {"weights": files.sha256(self.on.weights)}

    def is_whole(self, outputs: dict[str, str]) -> bool:
        return self.on.weights.is_file() and files.sha256(self.on.weights) == outputs["weights"]


class Export(_Step):
    """The float32 bundle, behind the parity gate."""

    name = "export"

    def check(self) -> Iterator[str]:
        preflight.packages("export", ("onnx", "onnxruntime"), "export")
        preflight.parity(self.on.data, PARITY_IMAGES)
        files.check_replaceable(self.on.place.run / "bundle")
        if self.on.recipe.train is None:
            yield from preflight.published(self.on.recipe.model.name, self.on.source, self.on.preprocess)

    def inputs(self) -> object:
        recipe = self.on.recipe
        weights = files.sha256(self.on.weights) if recipe.train else self.on.given_weights()
        return [
            recipe.name,
            recipe.model,
            self.on.preprocess,
            self.on.normalization,
            recipe.budget,
            weights,
            self.on.prints(),
        ]

    def run(self) -> dict[str, str]:
        images = self.on.data.val.take(PARITY_IMAGES)
        frames = np.asarray(self.on.frames(images))
        if len(images) < PARITY_IMAGES:  # of a small set, training images too: parity asks for pictures, not for labels
            more = self.on.data.train.take(PARITY_IMAGES - len(images))
            frames = np.concatenate([frames, np.asarray(self.on.frames(more))])
        provenance = {"architecture": self.on.recipe.model.name, "data": self.on.recipe.data.source}
        if self.on.source and not self.on.recipe.train:
            provenance["weights"] = f"{self.on.source.name}, {self.on.source.origin}"
        done = export(
            self.on.deployment.network,
            self.on.bundle,
            name=self.on.recipe.name,
            preprocess=self.on.preprocess,
            normalization=self.on.normalization,
            head=self.on.deployment.head,
            outputs=self.on.deployment.outputs,
            images=frames,
            budget=self.on.recipe.budget,
            provenance=provenance,
        )
        if done.merged:
            self.on.say(f"export: {done.merged} convolutions took the place of parallel branches and norms")
        worst = ", ".join(f"{name} {difference:.1e}" for name, difference in done.parity.items())
        self.on.say(
            f"export: equals PyTorch at batch {', '.join(map(str, BATCHES))} (largest relative difference: {worst})"
        )
        return {"float32": self.on.hash("float32")}

    def is_whole(self, outputs: dict[str, str]) -> bool:
        return self.on.hash("float32") == outputs["float32"]


class Quantize(_Step):
    """The search for int8, and its training; or the conversion to half precision alone."""

    name = "quantize"

    def check(self) -> Iterator[str]:
        config = self.on.recipe.quantize
        assert config is not None
        if config.train is not None and self.on.data.train.truths is None:
            raise BadInput(f"quantize.train needs labels, and data source '{self.on.recipe.data.source}' has none")
        if config.int8:
            yield from preflight.calibration(self.on.data, config)

    def inputs(self) -> object:
        inputs = [
            self.on.hash("float32"),
            self.on.recipe.quantize,
            self.on.recipe.budget,
            self.on.data.train.fingerprint(),
        ]
        trains = self.on.recipe.quantize is not None and self.on.recipe.quantize.train is not None
        return [*inputs, as_before(self.on.recipe.train), self.on.prints()] if trains else inputs

    def run(self) -> dict[str, str]:
        config = self.on.recipe.quantize
        assert config is not None
        if not config.int8:
            convert(self.on.bundle)
            beside(self.on.bundle, "quantize").unlink(missing_ok=True)  # of a search that this recipe asked for before
            self.on.say("quantize: converted to half precision, without a search")
            return {name: self.on.hash(name) for name in config.dialects}
        labelled = self.on.data.val.truths is not None
        images = self.on.frames(self.on.data.train.take(config.images + (0 if labelled else config.check_images)))
        check = self.on.data.val.take(config.check_images) if labelled else None
        done = quantize(
            self.on.bundle,
            np.asarray(images),
            config,
            self.on.lines("quantize"),
            check=None if check is None else np.asarray(self.on.frames(check)),
            labels=None if check is None else check.truths,
            views=None if check is None else self.on.views(check),
            book=beside(self.on.bundle, "trials"),
        )
        searched.keep(done, self.on.recipe.budget, self.on.bundle)
        for line in explain(done, self.on.recipe.budget):
            self.on.say(f"quantize: {line}")
        for dialect in config.int8 if config.train is not None else ():
            self._train_quantized(config, dialect, images)
        hashes = self.on.hashes()
        return {name: hashes[name] for name in config.dialects}

    def _train_quantized(self, config: Quantizing, dialect: str, images: Image) -> None:
        assert config.train is not None
        with bundle.Bundle(self.on.bundle) as opened:
            variant = opened.manifest.variant(dialect)
        folder = self.on.take_up(f"train-quantized/{dialect}", [self.inputs(), variant and variant.calibration])
        check = self.on.data.val.take(config.check_images)
        assert check.truths is not None
        done = train_quantized(
            self.on.bundle,
            self.on.deployed.network,
            self.on.data,
            sample(np.asarray(images), config.images),
            np.asarray(self.on.frames(check)),
            check.truths,
            self.on.recipe.train or TrainConfig(),
            config.train,
            folder,
            dialect=dialect,
            decoded=self.on.place.cache,
            progress=self.on.progress,
            views=self.on.views(check),
        )
        self.on.say(f"quantize: {done}")

    def is_whole(self, outputs: dict[str, str]) -> bool:
        return all(self.on.hash(name) == digest for name, digest in outputs.items())


UNFITTED = "no thresholds"  # what `Verify` notes of a variant that did not run when they were fitted


class Verify(_Step):
    """Every file on every backend beside PyTorch."""

    name = "verify"

    def check(self) -> Iterable[str]:
        return preflight.some_backend()

    def inputs(self) -> object:
        return [
            self.on.hashes(),
            self.on.scored.fingerprint(),
            self.on.division,
            machine.this().key,
            backends.available(),
        ]

    def run(self) -> dict[str, str]:
        images = self.on.scored
        frames = np.asarray(self.on.frames(images))
        expected = Outputs(frames, lambda batch: graph.references(self.on.deployed, batch))
        views = self.on.views(images)
        self._fit_thresholds()  # before: agreement is of what is shown
        with bundle.Bundle(self.on.bundle) as opened:
            done = verify(
                opened,
                frames,
                expected,
                reference_name="PyTorch float32",
                labels=images.truths,
                views=views,
                frames_name=f"{self.on.division} images",
                logits=partial(classmap.logits, self.on.deployed),
            )
            evidence = opened.evidence().merged([each.entry for each in done])
            bundle.update(opened, evidence=evidence)
        if views is None:
            task = classifying(opened.manifest.head, opened.manifest.outputs)
            packed = verified.pack(task, done, frames, expected.kept(), images, self.on.division)
            self._write(verified.FILE, packed, drawn.FILE)
        else:
            shown = drawn.draw(opened.manifest, done, images, views, expected, self.on.division)
            self._write(drawn.FILE, records.encode(shown), verified.FILE)
        if images.truths is not None:
            chose = "chose nothing before" if self.on.division == "test" else "also chose the epoch and the int8 file"
            self.on.say(f"verify: scored on {len(images)} {self.on.division} images, which {chose}")
        for each in done:
            entry = each.entry
            if entry.agreement is None:
                self.on.say(f"verify: {entry.variant} on {entry.backend} {entry.failed}")
                continue
            scored = f"{entry.score.metric} {entry.score.value:.2%}, " if entry.score else ""
            self.on.say(
                f"verify: {entry.variant} on {entry.backend} ran in {entry.executed}: {scored}"
                f"agrees with PyTorch on {entry.agreement.share.value:.2%} of {entry.agreement.share.count}"
            )
        return dict.fromkeys(self._unfitted(), UNFITTED)

    def _write(self, name: str, content: bytes, other: str) -> None:
        """Keep what the report shows; what a recipe for another kind of task left there goes."""
        files.write(self.on.folder / name, content)
        (self.on.folder / other).unlink(missing_ok=True)

    def _fit_thresholds(self) -> None:
        """Give each variant the confidences from which its own results are shown, by validation images."""
        images = self.on.data.val.take(self.on.recipe.verify.frames)
        if images.truths is None or not self.on.task.fitted(()):
            return
        frames, views = np.asarray(self.on.frames(images)), self.on.views(images)
        with bundle.Bundle(self.on.bundle) as opened:
            fit_thresholds(opened, frames, images.truths, views, lambda line: self.on.say(f"verify: {line}"))

    def is_whole(self, outputs: dict[str, str]) -> bool:
        # quantized again, a variant has lost its own thresholds; one that could not be fitted then cannot be now
        return self.on.measured("agreement") and set(self._unfitted()) <= set(outputs)

    def _unfitted(self) -> tuple[str, ...]:
        if self.on.data.val.truths is None:
            return ()
        with bundle.Bundle(self.on.bundle) as opened:
            return wants_thresholds(opened)


class Bench(_Step):
    """What every file takes."""

    name = "bench"

    def check(self) -> Iterable[str]:
        return preflight.some_backend()

    def inputs(self) -> object:
        return [self.on.hashes(), self.on.recipe.bench, machine.this().key, backends.available()]

    def run(self) -> dict[str, str]:
        config = self.on.recipe.bench
        say = self.on.lines("bench")
        with bundle.Bundle(self.on.bundle) as opened:
            done = bench(opened, seconds=config.seconds, rounds=config.rounds, threads=config.threads, progress=say)
            evidence = opened.evidence().merged(done)
            bundle.update(opened, evidence=evidence)
            offers = offered(opened.manifest, evidence, machine.this(), backends.available())
        for variant in opened.manifest.variants:
            for name, reason in offers.withheld(variant.name).items():
                self.on.say(f"bench: {variant.name} is not offered on {name}: {reason}")
        return {}

    def is_whole(self, _: dict[str, str]) -> bool:
        return self.on.measured("latency")


class Report(_Step):
    """The HTML page of the run."""

    name = "report"

    def check(self) -> Iterator[str]:
        preflight.packages("report", ("jinja2", "matplotlib"), "export")
        files.check_place(self.on.place.run / "report.html")
        yield from ()

    def inputs(self) -> object:
        return files.sha256(self.on.bundle / bundle.MANIFEST)

    def run(self) -> dict[str, str]:
        report.write([self.on.folder], self.on.folder / "report.html")
        return {}

    def is_whole(self, _: dict[str, str]) -> bool:
        return (self.on.place.run / "report.html").is_file()
