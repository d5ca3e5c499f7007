"""`edgecv adopt`: an ONNX file from elsewhere becomes a bundle. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import evidence
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime import bundle, files
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image, Preprocess

IMAGES = 64  # that the gate runs on at most; eight of them travel
LEAST = 8  # that it runs on
EVERY_S = 0.5  # between frames of a clip; more in long ones

Describe = Annotated[
    Path,
    typer.Option(
        "--describe", metavar="FILE", help="YAML with task, labels, preprocess, normalization, and where outputs stand."
    ),
]
_DATA = "Images or clips of what the camera will see, at least 8."
Images = Annotated[Path, typer.Option("--data", help=_DATA)]
DescribeOwn = Annotated[
    Path | None,
    typer.Option("--describe", metavar="FILE", help="Of a network of your own: as 'edgecv adopt' takes it."),
]
OwnImages = Annotated[Path | None, typer.Option("--data", help=f"For a network of your own. {_DATA}")]
Out = Annotated[Path | None, typer.Option("--out", help="The bundle, by default named as the file.")]


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A float ONNX file from elsewhere.")],
    describe: Describe,
    data: Images,
    out: Out = None,
    max_megapixels: evidence.MaxMegapixels = 50.0,
    json: evidence.Json = False,
) -> None:
    """Make a bundle of an ONNX file from elsewhere, proven to compute what the file does; no torch is needed."""
    try:
        import onnx  # noqa: F401
        import onnxslim  # noqa: F401
    except ImportError as exc:
        raise Unavailable(f"this command needs {exc.name}", extra="adopt") from exc
    from edgecv_export.adopt import adopt as adopted
    from edgecv_runtime import description, onnxfile

    onnxfile.read(model)  # what is no model is said before images are read
    place = place_of(out, model.stem)
    said = description.read(describe)
    done = adopted(model, said, place, images=frames(data, said.preprocess, max_megapixels))
    for note in done.notes:
        say(f"{model}: {note}")
    if json:
        show_json({"bundle": str(done.path), "parity": done.parity, "rows": done.rows, "notes": done.notes})
        return
    stdout.print(str(done.path), soft_wrap=True)


def export_own(
    arguments: list[str], describe: Path | None, data: Path | None, out: Path | None, max_megapixels: float, json: bool
) -> None:
    """What `edgecv export FILE.py:FUNCTION` does."""
    from edgecv_export import export, module
    from edgecv_runtime import description

    if len(arguments) != 1:
        raise BadInput(f"a network of your own takes no {' '.join(arguments[1:])}: its description says all")
    if describe is None or data is None:
        raise BadInput(
            f"{arguments[0]}: a network tells neither labels nor preprocessing: give --describe FILE, and --data "
            "IMAGES, on which the bundle is proven"
        )
    said = description.read(describe)
    network = module.load(arguments[0])
    place = place_of(out, Path(arguments[0].rpartition(":")[0]).stem)
    done = export.described(network, place, said, images=frames(data, said.preprocess, max_megapixels), name=place.stem)
    if json:
        show_json({"bundle": str(done.path), "parity": done.parity, "merged": done.merged})
        return
    stdout.print(str(done.path), soft_wrap=True)


def place_of(out: Path | None, name: str) -> Path:
    """Where the bundle goes; refuses what it would take the place of, unless that was named."""
    if out is None:
        out = Path(name)
        if out.exists():
            raise BadInput(f"{out}: is there already; say --out {out} to replace a bundle, or another place")
    bundle.check_place(out)
    files.check_replaceable(out)
    return out


def frames(data: Path, preprocess: Preprocess, max_megapixels: float) -> Image:
    """Images from all over a folder, of stills and clips, as the network sees them -> (N, H, W, C) uint8."""
    import numpy as np

    from edgecv.data import DataConfig, clips
    from edgecv_export.interface import check_frames

    source = DataConfig(source="clips", path=str(data), every_s=EVERY_S, max_megapixels=max_megapixels)
    found, notes = clips.spread(source, IMAGES, preprocess)
    for note in notes:
        say(f"warning: {note}")
    chosen = found.take(IMAGES)
    check_frames(chosen, LEAST, f"{data}: a proof")
    return np.stack([chosen[index] for index in range(len(chosen))])
