"""Verbs that run on the device, without torch: predict, tune, doctor."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import edgecv_runtime as rt
from edgecv.cli import photos
from edgecv.cli.loading import Loading, loads
from edgecv.cli.output import hushed, say, show_json, stderr, stdout
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, EdgecvError, ImageError

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image
    from edgecv_runtime.tasks.base import Result

ModelPath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or an ONNX file with --describe.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
EXIT_LOSSES = 4


@loads
def predict(
    bundle: ModelPath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Images, or folders of them.")],
    loading: Loading,
    top: Annotated[int, typer.Option(help="How many labels to show.")] = 1,
    save: Annotated[Path | None, typer.Option("--save", help="Folder for annotated copies, and masks as PNG.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count unreadable images and go on (exit code 4).")
    ] = False,
    max_megapixels: Annotated[float, typer.Option(help="A larger picture is refused unread.")] = 50.0,
    json: Json = False,
) -> None:
    """Find labels, boxes or masks on images; where folders are named as labels, tell how many are right."""
    gathered, left_out = photos.gather(bundle, paths)
    found = [(root, file, _place(save, root, file)) for root, file in gathered]
    if top < 1:
        raise BadInput(f"--top must be at least 1, got {top}")
    places = [place for _, _, place in found if place is not None]
    refuse_overwriting([file for _, file, _ in found], places, "--save")
    results: list[dict[str, Any]] = []
    bad: list[str] = []
    with loading.model(bundle) as model:
        scores = photos.Scores.of(model.labels)
        for root, file, place in found:
            try:
                frame = _read(file, round(max_megapixels * 1e6))
            except ImageError as exc:
                if not skip_bad:
                    raise
                bad.append(str(exc))
                continue
            result = model(frame)
            if isinstance(result, rt.Classification):
                scores.add(root, file, result.label)
            if place is not None:
                _save(place, result.draw(frame))
                for ending, content in result.files().items():
                    files.write(place.with_suffix(ending), content)
            if json:
                results.append({"path": str(file), **_plain_result(result, top)})
            else:
                stdout.print(f"{_readable(file)}: {_said(result, top)}", soft_wrap=True)
        if json:
            facts = {"model": model.info, "results": results, "unreadable": bad, "left_out": left_out}
            show_json({**facts, "scores": scores.rows()})
    if not json:
        for row in scores.rows():
            stdout.print(
                f"{row['folder']}: {row['right']} of {row['count']} as their folders are named", soft_wrap=True
            )
    for line in bad:
        stderr.print(f"edgecv: {line}", soft_wrap=True)
    if bad:
        raise typer.Exit(EXIT_LOSSES)


@loads
def tune(
    bundle: ModelPath,
    loading: Loading,
    json: Json = False,
) -> None:
    """Find the fastest way to run a bundle here: backend, variant, threads, streams, batch; `load` remembers it.

    Only variants within the accuracy budget that the bundle's evidence shows on this machine take part. Exit code 4
    when nothing keeps to the bound that was asked for.
    """
    from edgecv_runtime.choose import Ask
    from edgecv_runtime.goals import Goal
    from edgecv_runtime.loading import load_asked

    goal = Goal(loading.goal)
    ask = Ask(loading.backend, loading.precision, loading.device, loading.threads, goal, tune=True)
    with load_asked(bundle, ask, loading.describe, loading.confidence, self_test=loading.self_test) as model:
        info, reasons = model.info, model.explain().splitlines()
    if json:
        show_json({"model": info, "goal": goal.text, "reasons": reasons})
    else:
        for line in reasons:
            stdout.print(line, soft_wrap=True, highlight=False)
        if not reasons[-1].startswith("not remembered"):
            asked, options = _asked(loading)
            say(f"remembered for this machine: load({asked}) takes it, and predict and stream with: {options}")
    if not info.keeps_goal:
        stderr.print(f"edgecv: nothing here keeps {goal.text}: loosen the goal or take a smaller model", soft_wrap=True)
        raise typer.Exit(EXIT_LOSSES)


def _asked(loading: Loading) -> tuple[str, str]:
    """How `load`, and a verb, have to be asked to take what was found."""
    given = {name: getattr(loading, name) for name in ("backend", "precision", "device", "threads")}
    given = {name: value for name, value in given.items() if value != getattr(Loading, name)} | {"goal": loading.goal}
    named = ", ".join(["...", *(f"{name}={value!r}" for name, value in given.items())])
    return named, " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items())


def doctor(json: Json = False) -> None:
    """Tell what this machine has, which backends work, and why the others do not."""
    from edgecv_runtime import backends, install, machine

    facts: dict[str, Any] = {"edgecv": rt.__version__, "machine": machine.this(), "backends": {}, "packages": {}}
    for name in backends.names():
        try:
            versions = backends.get(name).probe()
            precisions = backends.get(name).precisions()
            facts["backends"][name] = {"works": True, "versions": versions, "precisions": precisions}
        except EdgecvError as exc:
            facts["backends"][name] = {"works": False, "why": str(exc)}
    for name, (purpose, extra) in _MODULES.items():
        version = _version(name)
        cure = {} if version != NOT_INSTALLED else {"install": install.command(extra)}
        facts["packages"][name] = {"version": version, "for": purpose, **cure}
    if json:
        show_json(facts)
        return
    this = machine.this()
    stdout.print(f"edgecv {rt.__version__}, Python {platform.python_version()}, {this.os}")
    stdout.print(f"CPU: {this.cpu}, {this.cores} cores, {' '.join(this.isa) or 'no known vector instructions'}")
    stdout.print(f"GPU: {this.gpu or 'no NVIDIA GPU found'}")
    for name, found in facts["backends"].items():
        if found["works"]:
            libraries = ", ".join(f"{library} {number}" for library, number in found["versions"].items())
            stdout.print(f"backend {name}: works; {libraries or 'built in'}; {', '.join(found['precisions'])}")
        else:
            stdout.print(f"backend {name}: {found['why']}", soft_wrap=True)
    for name, package in facts["packages"].items():
        hint = f": {package['install']}" if "install" in package else ""
        stdout.print(f"{name}: {package['version']} ({package['for']}){hint}", soft_wrap=True)


NOT_INSTALLED = "not installed"
# Module -> what it is for, and the extra that brings it.
_MODULES = {
    "cv2": ("OpenCV: images and cameras", "cpu"),
    "av": ("PyAV: video files and network streams", "cpu"),
    "starlette": ("the live page of a stream", "page"),
    "paho.mqtt": ("an MQTT broker as a sink", "mqtt"),
    "torch": ("training and export", "export"),
    "onnx": ("export and quantization", "export"),
}


def _version(module: str) -> str:
    """Version of a module as it says itself, or why it cannot be imported."""
    try:
        return str(importlib.import_module(module).__version__)
    except ModuleNotFoundError:
        return NOT_INSTALLED
    except Exception as exc:  # a broken library may fail in any way, and that is what doctor is for
        return f"broken: {exc}"


def _read(file: Path, max_pixels: int) -> Image:
    """Decode an image; what its decoder complains of is said with the file's name, or in the error."""
    said: list[str] = []
    try:
        with hushed() as said:
            frame = rt.images.read(file, max_pixels)
    except ImageError as exc:
        raise (ImageError(f"{exc}: {'; '.join(said)}") if said else exc) from exc
    for line in said:
        stderr.print(f"edgecv: warning: {_readable(file)}: {line}", soft_wrap=True)
    return frame


def _plain_result(result: Result, top: int) -> dict[str, Any]:
    """A result for JSON; of labels at least five."""
    return result.as_dict(max(top, 5)) if isinstance(result, rt.Classification) else result.as_dict()


def _said(result: Result, top: int) -> str:
    """A result in words; of labels the best with their scores, or where several may hold those that do."""
    if not isinstance(result, rt.Classification):
        return str(result)
    if result.thresholds and top == 1:
        found = result.present
        if not found:
            return f"none of {len(result.labels)} labels (the nearest: {result.score:.1%} {result.label})"
    else:
        found = result.top(top)
    return "   ".join(f"{guess.score:6.1%} {guess.label}" for guess in found)


def _readable(path: Path) -> str:
    r"""A path as text, also when its name is no valid UTF-8: its bytes are then written as \xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _place(save: Path | None, root: Path, file: Path) -> Path | None:
    """Where the annotated copy of a file goes: below `save`, as the file lies below the folder that was named."""
    if save is None:
        return None
    inside = Path(file.name) if root.is_file() else Path(root.name) / file.relative_to(root)
    return save / inside.with_name(files.short_name(inside.name, 251) + ".jpg")


def refuse_overwriting(inputs: list[Path], outputs: list[Path], option: str) -> None:
    """Outputs that would replace inputs, or each other, are refused before anything is written."""
    taken = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in taken:
            raise BadInput(f"{option} {output}: would overwrite it; name another place")
        taken.add(output.resolve())


def _save(path: Path, picture: Image) -> None:
    import cv2

    from edgecv_runtime import files

    done, data = cv2.imencode(".jpg", picture)
    if not done:
        raise ImageError(f"{path}: cannot be encoded")
    files.write(path, data.tobytes())
