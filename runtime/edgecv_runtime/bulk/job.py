"""What a table is made of: bundle, options, inputs. A run goes on only with the parts of the very same job."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import Any

import msgspec

from edgecv_runtime import backends, onnxfile
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.description import Description
from edgecv_runtime.description import read as read_description
from edgecv_runtime.errors import BundleError
from edgecv_runtime.loading import is_bundle
from edgecv_runtime.predictor import Predictor
from edgecv_runtime.records import Record


class Choice(Record, frozen=True):
    """What was chosen when the job began, and runs to its end, and the versions of what computes."""

    backend: str
    precision: str
    versions: dict[str, str]

    @classmethod
    def of(cls, backend: str, precision: str) -> Choice:
        """With the versions that are installed."""
        return cls(backend, precision, {"edgecv": version("edgecv"), **backends.get(backend).probe()})


class Done(Record, frozen=True):
    """What a job gave: pictures, how many of them have an error instead of a result, the table's size and SHA-256."""

    images: int
    errors: int
    bytes: int
    sha256: str


class Job(Record, frozen=True):
    """A job, as it is kept beside its table. chunk: pictures of a part. done: what it gave, when it is."""

    bundle: str
    options: dict[str, Any]
    task: str
    columns: tuple[str, ...]
    inputs: str
    images: int
    chunk: int
    choice: Choice
    done: Done | None = None


def content(predictor: Predictor) -> str:
    """SHA-256 of all that decides what a bundle answers: its networks, and what their inputs and outputs mean.

    What was measured of it (`edgecv verify`, `edgecv bench`) is not in it.
    """
    if is_bundle(predictor.source):
        with Bundle(predictor.source, remembered=True) as bundle:
            manifest = bundle.manifest
            files = {each.file: manifest.files[each.file].sha256 for each in manifest.variants}
            facts: list[Any] = [manifest.head, manifest.preprocess, manifest.input, manifest.variants, files]
    else:
        network = onnxfile.digest(predictor.source, onnxfile.read(predictor.source).external)
        described = predictor.options["description"]
        if described is not None and not isinstance(described, Description):
            described = read_description(described)
        facts = [network, described]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def check_same(predictor: Predictor, bundle: str) -> None:
    """Open the model, and raise BundleError where it is not the one that the job began with."""
    for _ in range(2):  # before and after it was loaded
        if content(predictor) != bundle:
            raise BundleError(f"{predictor.source}: was exchanged while the job ran; run it again for what to do")
        _ = predictor.model


def options_of(predictor: Predictor) -> dict[str, Any]:
    """What was asked for that may change an answer, as plain values."""
    asked = {name: value for name, value in predictor.options.items() if name not in ("description", "self_test")}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({**asked, "max_pixels": predictor.max_pixels}))
    return plain


def other_than(old: Job, new: Job) -> str:
    """In what a job differs from the one whose parts are there, in words; "" where it is the same."""
    told = []
    if old.bundle != new.bundle:
        told.append(f"the bundle ({old.bundle[:8]} then, {new.bundle[:8]} now)")
    for name in dict.fromkeys((*old.options, *new.options)):
        was, now = old.options.get(name), new.options.get(name)
        if was != now:
            told.append(f"{name} ({was} then, {now} now)")
    if old.columns != new.columns:
        told.append(f"columns ({', '.join(old.columns)} then, {', '.join(new.columns)} now)")
    if old.chunk != new.chunk:
        told.append(f"chunk ({old.chunk} then, {new.chunk} now)")
    if old.choice.versions != new.choice.versions:
        told.append(f"versions ({_said(old.choice.versions)} then, {_said(new.choice.versions)} now)")
    return ", ".join(told)


def _said(versions: dict[str, str]) -> str:
    return " ".join(f"{name} {number}" for name, number in versions.items())
