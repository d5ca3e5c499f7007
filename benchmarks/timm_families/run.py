"""How much of timm's mobile and edge families goes through edgecv: export behind the parity gate, merging, int8.

    pip install timm        # a study's tool, not a dependency here
    python benchmarks/timm_families/run.py --archives wheels/*.whl --out FOLDER [NAME ...]

Weights are random (seed 0), batch norms and the last layer fitted to the pictures, so that the outputs tell pictures
apart; what int8 loses on them is no figure of a trained network's. `quantization/photographs.py` says where pictures
come from. Each network runs in a process of its own and leaves FOLDER/NAME.json, which the next call takes up. Writes
benchmarks/timm_families/results.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks import photographs, plots, study
from edgecv_export.export import export
from edgecv_export.graph import Deployed, reference
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import verify
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Image, Normalization, Preprocess
from edgecv_runtime.records import Record
from edgecv_runtime.target import targets

# One small member of each family, at the size that it was made for.
NAMES = (
    "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobileone_s0",
    "mobilevit_xxs", "mobilevitv2_050", "efficientnet_lite0", "efficientnet_b0", "efficientformer_l1",
    "efficientformerv2_s0", "efficientvit_b0", "efficientvit_m0", "edgenext_xx_small", "fastvit_t8", "fasternet_t0",
    "repvgg_a0", "repvit_m0_9", "repghostnet_050", "ghostnet_050", "ghostnetv2_100", "mixnet_s", "fbnetc_100",
    "mnasnet_small", "spnasnet_100", "tinynet_e", "rexnet_100", "hardcorenas_a", "lcnet_050", "hgnetv2_b0",
    "levit_128s", "tiny_vit_5m_224", "pvt_v2_b0", "poolformer_s12", "nextvit_small", "convnextv2_atto", "starnet_s1",
    "shvit_s1", "swiftformer_xs", "mambaout_femto", "resnet10t", "regnety_002", "deit_tiny_patch16_224",
)  # fmt: skip
CLASSES, CALIBRATION, TEST = 10, 16, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MINUTES = 10.0  # of one network


class Tried(Record, frozen=True):
    """What became of one network.

    parity: largest difference of any backend from PyTorch. merged: convolutions that took the place of branches.
    plan: of the int8 file; off: on each backend, its difference from PyTorch as a share of the outputs' size; kept:
    share of pictures that keep their label. float_ms, int8_ms: by backend. why: where it ended, empty where it did not.
    """

    name: str
    size: int
    parameters: int = 0
    parity: float = 0.0
    merged: int = 0
    plan: str = ""
    kept: dict[str, float] = {}
    off: dict[str, float] = {}
    float_ms: dict[str, float] = {}
    int8_ms: dict[str, float] = {}
    seconds: float = 0.0
    why: str = ""


def main() -> None:
    """Try the networks named, or all; write the table of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="zips (wheels) of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--export-only", action="store_true", help="leave int8 out")
    parser.add_argument("--one", action="store_true", help="try the one network named, in this process")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.one:
        (name,) = given.names
        (given.out / f"{name}.json").write_bytes(
            msgspec.json.encode(tried(name, given.archives, given.out, given.export_only))
        )
        return
    for name in given.names or NAMES:
        if not (given.out / f"{name}.json").is_file():
            apart(name, given.archives, given.out, ["--export-only"] * given.export_only)
    found = [msgspec.json.decode(path.read_bytes(), type=Tried) for path in given.out.glob("*.json")]
    page(sorted(found, key=lambda each: each.name))


def apart(name: str, archives: list[Path], out: Path, how: list[str]) -> None:
    """Try a network in a process of its own; a crash is a finding, too."""
    command = [sys.executable, __file__, "--out", str(out), "--one", name, *how, "--archives", *map(str, archives)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
        ended = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired:
        ended = [f"not through after {MINUTES:g} minutes"]
    if ended:
        (out / f"{name}.json").write_bytes(msgspec.json.encode(Tried(name, 0, why=f"the process ended: {ended[0]}")))
    print((out / f"{name}.json").read_text(), flush=True)


def tried(name: str, archives: list[Path], out: Path, export_only: bool) -> Tried:
    """One network, as far as it goes."""
    start = time.perf_counter()
    network, size = made(name)
    preprocess, normalization = Preprocess((size, size)), Normalization(MEAN, STD)
    pictures = read(archives, preprocess, out)
    found = Tried(name, size, sum(each.numel() for each in network.parameters()))
    fitted(network, pictures.calibration, normalization)
    with tempfile.TemporaryDirectory(prefix="edgecv-study-") as folder:
        path = Path(folder) / name
        try:
            done = export(
                network,
                path,
                name=name,
                preprocess=preprocess,
                normalization=normalization,
                labels=[f"class {index}" for index in range(CLASSES)],
                images=pictures.check[:8],
                scores="logits",
            )
            found = msgspec.structs.replace(found, parity=max(done.parity.values()), merged=done.merged)
            if export_only:
                return msgspec.structs.replace(found, seconds=time.perf_counter() - start)
            config = QuantizeConfig(placements=("layers",), ranges=("mean-min-max",), passes=("bias",), islands=False)
            chosen = quantize(
                path, pictures.calibration, config, check=pictures.check, budget=Budget(min_agreement=0.5)
            )
            found = msgspec.structs.replace(
                found, plan=chosen.chosen.plan.name, float_ms=chosen.float_ms, int8_ms=chosen.chosen.p50_ms
            )
            with Bundle(path) as opened:
                wanted = reference(Deployed(network, normalization), pictures.test)
                found = judged(found, opened, pictures.test, wanted)
        except EdgecvError as exc:
            found = msgspec.structs.replace(found, why=f"{type(exc).__name__}: {exc}")
    return msgspec.structs.replace(found, seconds=time.perf_counter() - start)


def made(name: str) -> tuple[torch.nn.Module, int]:
    """A network with random weights, and the side of its input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    torch.set_num_threads(1)  # two wait for each other on a machine that does other work
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    settings: Any = network.default_cfg
    return network.eval(), int(settings["input_size"][-1])


def read(archives: list[Path], preprocess: Preprocess, out: Path) -> photographs.Photographs:
    """Pictures of a size; they are decoded once."""
    files = [out / f"{part}-{preprocess.size[0]}.npy" for part in photographs.PARTS]
    if not files[-1].is_file():
        found = photographs.read(archives, preprocess, (CALIBRATION, CALIBRATION, TEST))
        for part, file in zip(photographs.PARTS, files, strict=True):
            np.save(file, getattr(found, part))
    return photographs.Photographs(*(np.load(file) for file in files))


def fitted(network: Any, pictures: Image, normalization: Normalization) -> None:
    """Batch norms as the pictures leave them, layer scales of a trained network's size, and outputs that spread."""
    norms = [each for each in network.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for key, values in network.named_parameters():
            if (
                values.ndim
                and values.abs().max() < 1e-3
                and key.rsplit(".", 1)[-1] in ("gamma", "layer_scale", "weight")
            ):
                values.fill_(0.1)  # begun at 1e-5 or 0: the block would compute nothing
        for norm in norms:
            norm.momentum, norm.training = None, True
            if norm.weight is not None:
                norm.weight.mul_(torch.empty_like(norm.weight).uniform_(0.8, 1.2))  # no two are equal after training
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (normalization.mean, normalization.std))
        for batch in torch.split((pixels - mean) / std, 16):
            network(batch)
        network.eval()


def judged(found: Tried, opened: Bundle, pictures: Image, wanted: Any) -> Tried:
    """What int8 gives on each backend, beside PyTorch: outputs (N, CLASSES)."""
    kept, off = {}, {}
    for target in targets(opened):
        if not target.variant.startswith("int8"):
            continue
        backend = target.open()
        compute = verify.computing(backend, opened.manifest)
        parts = [compute(pictures[start : start + 8])["logits"] for start in range(0, len(pictures), 8)]
        backend.close()
        outputs = np.concatenate(parts)
        kept[target.backend] = float((wanted.argmax(1) == outputs.argmax(1)).mean())
        off[target.backend] = float(np.linalg.norm(outputs - wanted) / np.linalg.norm(wanted))
    return msgspec.structs.replace(found, kept=kept, off=off)


def page(found: list[Tried]) -> None:
    """The table, and why some did not get through."""
    through = [each for each in found if each.parity]
    quantized = [each for each in found if len(each.off) == 2]
    lines = [
        f"{len(found)} networks: {len(through)} pass the parity gate "
        f"({min(each.parity for each in through):.1g} to {max(each.parity for each in through):.1g} of the largest "
        f"output), in {sum(each.merged > 0 for each in found)} of them parallel branches were merged. Int8 was "
        f"tried of {sum(bool(each.plan or each.why) for each in found)}: {len(quantized)} become files for both "
        "backends.",
        "",
        "| network | px | M parameters | parity | merged | int8 | off: ONNX Runtime, OpenVINO | label kept "
        "| float32 ms | int8 ms |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        figures = [
            f"{each.parity:.1g}" if each.parity else "",
            str(each.merged or ""),
            each.plan.split(",")[0] or ("no" if each.why else ""),
            both(each.off, "{:.1%}"),
            both(each.kept, "{:.0%}"),
            both(each.float_ms, "{:.1f}"),
            both(each.int8_ms, "{:.1f}"),
        ]
        size = f"{each.size} | {each.parameters / 1e6:.1f}"
        lines.append(f"| {each.name} | {size} | {' | '.join(figures)} |")
    lines += ["", *(f"- {each.name}: {each.why}" for each in found if each.why)]
    how = (
        f"timm {version()}, random weights of seed 0, batch norms fitted to {CALIBRATION} photographs. Parity: largest "
        "difference from PyTorch, of the largest output. merged: convolutions in the place of parallel branches. int8: "
        f"the placement of the one plan that was tried, calibrated on {CALIBRATION} photographs, without islands; off: "
        f"the difference from PyTorch as a share of the outputs' size, on {TEST} others; label kept: out of {CLASSES}, "
        "none of which is learned. Milliseconds at batch 1 of single rounds on a machine that did other work too: for "
        "orientation. Untrained networks blow up what rounding adds; `--export-only` where int8 is blank."
    )
    STUDY.record([how, "", *lines])


def both(figures: dict[str, float], form: str) -> str:
    """A figure of each backend."""
    return " ".join(form.format(figures[name]) for name in sorted(figures))


def version() -> str:
    """timm's."""
    from importlib.metadata import version as of

    return of("timm")


STUDY = study.Study(
    Path(__file__),
    "timm's families, exported and quantized",
    picture=plots.Against(
        ("float32 ms", "milliseconds of float32 on OpenVINO"),
        ("int8 ms", "milliseconds of int8 on OpenVINO"),
        part=1,
        named=2,
        same="int8 as fast as float32",
    ),
)


if __name__ == "__main__":
    main()
