"""A bundle as a model repository of Triton or of OpenVINO Model Server: the files as they are, config, and a note.

These servers run the network alone. What makes its input of a picture, and results of its outputs, is the bundle's: the
note says it in words, and `--backend kserve:URL` does it (and proves what such a server answers).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgecv_runtime import files, onnxfile
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.datatypes import BYTES, DTYPES
from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Manifest, TensorSpec, Variant
from edgecv_runtime.preprocess import Preprocess

NOTE = "README.md"
MOUNTED = "/models"  # where the repository lies for the server
_MODEL = "model.onnx"
_VERSION = "1"


class Kept(NamedTuple):
    """A model of a repository: its name there, and the variant that it is."""

    name: str
    variant: Variant


def write(
    bundle: Bundle, folder: Path, server: str, variants: Sequence[str] = (), mounted: str = MOUNTED
) -> list[Kept]:
    """Write a repository of some variants of a bundle, all by default -> its models; whole, or not at all.

    server: "triton" or "ovms". folder: new, or empty. mounted: where the server finds it; in OVMS' config.
    Raises BadInput.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: is there already, and not empty: a repository is written whole; name another folder")
    manifest = bundle.manifest
    name = manifest.name
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise BadInput(f"{bundle.path}: '{name}' cannot be the name of a folder")
    for each in variants:
        bundle.variant_file(each)
    kept = [Kept(f"{name}-{each.name}", each) for each in manifest.variants if not variants or each.name in variants]
    with files.replacing_folder(folder) as made:
        for model in kept:
            _add_model(bundle, model, made / model.name / _VERSION)
        for path, text in SERVERS[server](bundle, kept, mounted).items():
            files.write(made / path, text.encode())
        files.write(made / NOTE, _note(manifest, kept).encode())
    return kept


def _add_model(bundle: Bundle, kept: Kept, place: Path) -> None:
    """The file, under the name that servers look for, and the data beside it, under their own."""
    file = bundle.file(kept.variant.file)
    place.mkdir(parents=True)
    shutil.copyfile(file, place / _MODEL)
    for name in onnxfile.read(file).external:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.parent / name, place / name)
    bundle.check_unchanged(kept.variant.file)


def _triton(bundle: Bundle, kept: Sequence[Kept], mounted: str) -> dict[str, str]:
    """A config.pbtxt for each: the whole shape stands in `dims`, so Triton joins no requests by itself."""
    del mounted
    manifest = bundle.manifest
    found = {}
    for name, variant in kept:
        content = f"{manifest.name} {variant.name} {bundle.sha256(variant.name)}"
        lines = [
            f"name: {_quoted(name)}",
            'backend: "onnxruntime"',
            f"default_model_filename: {_quoted(_MODEL)}",
            "max_batch_size: 0",
            *_tensors("input", (manifest.input,)),
            *_tensors("output", manifest.outputs),
            f'parameters {{ key: "edgecv.content" value {{ string_value: {_quoted(content)} }} }}',
        ]
        found[f"{name}/config.pbtxt"] = "\n".join(lines) + "\n"
    return found


def _ovms(bundle: Bundle, kept: Sequence[Kept], mounted: str) -> dict[str, str]:
    """A config.json for all; float32 stays float32, which OpenVINO else computes in bf16 on CPUs that have it."""
    del bundle
    configs = [
        {
            "config": {
                "name": name,
                "base_path": f"{mounted.rstrip('/')}/{name}",
                "plugin_config": {"INFERENCE_PRECISION_HINT": "f32"},
            }
        }
        for name, _ in kept
    ]
    return {"config.json": json.dumps({"model_config_list": configs}, indent=2, ensure_ascii=False) + "\n"}


SERVERS: dict[str, Callable[[Bundle, Sequence[Kept], str], dict[str, str]]] = {"triton": _triton, "ovms": _ovms}


def _tensors(kind: str, specs: Sequence[TensorSpec]) -> list[str]:
    return [
        f"{kind} {{ name: {_quoted(spec.name)} data_type: {_triton_type(spec)} dims: {_sizes(spec)} }}"
        for spec in specs
    ]


def _triton_type(spec: TensorSpec) -> str:
    datatype = DTYPES[spec.dtype]
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    plain = "".join(chr(each) if 32 <= each < 127 and each not in b'"\\' else f"\\{each:03o}" for each in text.encode())
    return f'"{plain}"'


def _note(manifest: Manifest, kept: Sequence[Kept]) -> str:
    """What a client has to do, since the server does not."""
    spec = manifest.input
    lines = [
        f"# {manifest.name}",
        "",
        "The server runs the network alone. Before and behind it a client does what stands here, or lets edgecv do it:",
        "",
        "    edgecv verify BUNDLE --backend 'kserve:http://HOST:8000/v2/models/MODEL#VARIANT'",
        "    edgecv predict BUNDLE PICTURES --backend 'kserve:http://HOST:8000/v2/models/MODEL#VARIANT'",
        "",
        "| model | variant | precision |",
        "| --- | --- | --- |",
        *(f"| {name} | {variant.name} | {variant.precision} |" for name, variant in kept),
        "",
        "## From a picture to the input",
        "",
        *(f"{number}. {step}" for number, step in enumerate(in_words(manifest.preprocess), 1)),
        "",
        f"They are the tensor `{spec.name}`, {DTYPES[spec.dtype]} {_sizes(spec)}, as they are: the network itself "
        "normalizes them.",
        "",
        "## From the outputs to results",
        "",
        f"The task is {manifest.task}. Outputs: "
        + ", ".join(f"`{each.name}` {DTYPES[each.dtype]} {_sizes(each)}" for each in manifest.outputs)
        + ". The record that says what they mean, and the labels in the order of the classes:",
        "",
        "```json",
        json.dumps(_plain(manifest), indent=1, ensure_ascii=False),
        "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _plain(manifest: Manifest) -> object:
    import msgspec

    return msgspec.to_builtins(manifest.head)


def in_words(asked: Preprocess) -> list[str]:
    """The steps from an image file to the pixels that the network sees, a sentence each."""
    height, width = asked.size
    steps = ["Decode the file to 8-bit pixels, turned as its EXIF orientation says."]
    if asked.mode == "crop":
        steps.append(
            f"Scale it so that the shorter side has {asked.shorter_side} pixels, {_ways(asked)}, and cut out the "
            f"central {height} rows of {width} pixels."
            if height == width
            else f"Cut out the largest central window of the shape {height}:{width} (rows : pixels of a row), less a "
            f"margin of {min(asked.size)} of {asked.shorter_side}, and scale it to {height} rows of {width} pixels, "
            f"{_ways(asked)}."
        )
    elif asked.mode == "stretch":
        steps.append(f"Scale it to {height} rows of {width} pixels, whatever its shape, {_ways(asked)}.")
    else:
        steps.append(
            f"Scale it, keeping its shape, until it fits into {height} rows of {width} pixels, {_ways(asked)}; put it "
            f"into the middle and fill the rest with grey, {asked.fill}."
        )
    order = {"RGB": "red, green, blue", "BGR": "blue, green, red", "GRAY": "one, grey"}[asked.color]
    steps.append(f"The channels of a pixel are {order}; 0 to 255.")
    return steps


def _ways(asked: Preprocess) -> str:
    return {
        "area": "averaging where it shrinks and linear where it grows (OpenCV's INTER_AREA and INTER_LINEAR)",
        "pyramid": "averaging 2x2 pixels for as long as it is twice too large, then linear (OpenCV's INTER_LINEAR)",
        "linear": "linear (OpenCV's INTER_LINEAR, which does not average)",
        "cubic": "cubic (OpenCV's INTER_CUBIC)",
        "nearest": "taking the nearest pixel (OpenCV's INTER_NEAREST)",
    }[asked.interpolation]
