"""Static INT8: one calibration, several placements of Q/DQ, and the one that keeps its outputs and runs fastest.

Where Q/DQ stands decides speed and accuracy, and no placement is best for every network, so each is made and measured.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_export.calibrate import BATCH, Ranges, Statistics, calibrate
from edgecv_export.graph import INPUT, check_frames
from edgecv_runtime import backends, bundle, verify
from edgecv_runtime.backends import Options
from edgecv_runtime.bench.timing import times_ms
from edgecv_runtime.errors import BackendUnavailable, BadInput, ComputationError, ModelFileError
from edgecv_runtime.manifest import Agreement, Calibration, Variant
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record

DIALECT = "int8-u8s8"
# Which operators get Q/DQ: rows to try.
PLACEMENTS: dict[str, tuple[str, ...]] = {
    "all": (
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "Clip",
        "Relu",
        "GlobalAveragePool",
        "AveragePool",
        "MaxPool",
        "Concat",
    ),
    "layers": ("Conv", "Gemm", "MatMul", "Clip", "Relu"),
    "convolutions": ("Conv", "Clip", "Relu"),
}
MIN_IMAGES = 16
KL_SLACK, KL_NEGLIGIBLE = 1.1, 1e-3


class QuantizeConfig(Record, frozen=True):
    """How to quantize. images: how many calibrate; check_images: how many more choose between the candidates."""

    images: int = 200
    check_images: int = 100
    placements: tuple[str, ...] = tuple(PLACEMENTS)
    ranges: tuple[Ranges, ...] = ("min-max", "percentile")

    def __post_init__(self) -> None:
        if self.images < MIN_IMAGES or self.check_images < MIN_IMAGES:
            raise BadInput(f"images and check_images must be at least {MIN_IMAGES}")
        unknown = [name for name in self.placements if name not in PLACEMENTS]
        if unknown or not self.placements or not self.ranges:
            raise BadInput(f"placements are of {', '.join(PLACEMENTS)}, got {self.placements}; ranges {self.ranges}")


@dataclass(frozen=True)
class Candidate:
    """One way to quantize and what it gave: agreement with float32 on check images, milliseconds by backend."""

    placement: str
    ranges: Ranges
    content: bytes
    agreement: Agreement
    p50_ms: dict[str, float]


@dataclass(frozen=True)
class Quantized:
    """The outcome: every candidate, the one that was taken, and float32's milliseconds by backend."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    float_ms: dict[str, float]


def quantize(
    path: str | Path,
    images: Image,
    config: QuantizeConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Add an int8 variant to a bundle, calibrated on real images; the bundle changes only at the end, atomically.

    images: (N, H, W, C) uint8, preprocessed, N = config.images + config.check_images; of fewer, two thirds calibrate.
    The variant is offered nowhere until `verify` and `bench` have judged it.
    Raises BadInput for too few images, images that are no images (random or constant), or a float32 file that is
    already quantized; ComputationError when calibration meets NaN.
    """
    import onnx

    config = config or QuantizeConfig()
    with bundle.Bundle(path) as opened:
        check_frames(images, 2 * MIN_IMAGES, "quantization")
        _check_real(images)
        source = opened.variant_file("float32")
        model = onnx.load(source)
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
            raise BadInput(f"{source}: is already quantized; quantize the float32 model")
        images = images[np.random.default_rng(0).permutation(len(images))]  # both parts shall see all of the data
        count = min(config.images, len(images) * 2 // 3)
        calibration, check = images[:count], images[count : count + config.check_images]

        progress(f"calibrate on {len(calibration)} images")
        statistics_ = calibrate(model, _batches(calibration))
        corrected = correct_biases(model, statistics_)
        reference, float_ms = _measure(source.read_bytes(), check, opened)
        candidates = []
        for placement in config.placements:
            for ranges in config.ranges:
                progress(f"try {placement}, {ranges}")
                content = insert_qdq(corrected, statistics_, PLACEMENTS[placement], ranges)
                outputs, p50_ms = _measure(content, check, opened)
                agreement = verify.agreement(reference, outputs, "float32 on check images")
                candidates.append(Candidate(placement, ranges, content, agreement, p50_ms))
        chosen = choose(candidates)
        _add(opened, chosen, len(calibration))
    return Quantized(tuple(candidates), chosen, float_ms)


def choose(candidates: list[Candidate]) -> Candidate:
    """Of the candidates that stay as close to float32 as the closest one, the fastest over all backends.

    Close is measured by Kullback-Leibler divergence, which tells apart what top-1 agreement on some hundred images
    cannot: as close is within 10 %, or below 0.001 nats. Speed is the geometric mean of the medians of all backends
    that run the file.
    """
    best = min(candidate.agreement.kl for candidate in candidates)
    good = [each for each in candidates if each.agreement.kl <= max(best * KL_SLACK, KL_NEGLIGIBLE)]
    return min(good, key=lambda each: statistics.fmean(math.log(ms) for ms in each.p50_ms.values()))


def correct_biases(model: Any, ranges: dict[str, Statistics]) -> Any:
    """Take back the mean shift that rounding the weights causes, by changing each layer's bias.

    Rounding W to W + dW shifts the mean output by dW * E[x]; the bias takes that off (Nagel et al. 2019, "Data-Free
    Quantization Through Weight Equalization and Bias Correction", section 4.2, with E[x] measured in calibration). Zero
    padding at the border is left out of account. Layers without a bias are left as they are.
    """
    import onnx

    model = copy.deepcopy(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        seen = ranges.get(node.input[0]) if node.op_type in ("Conv", "Gemm") and len(node.input) == 3 else None
        if seen is None or seen.channel_means is None or not {*node.input[1:]} <= set(constants):
            continue
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        weights = onnx.numpy_helper.to_array(constants[node.input[1]])
        if node.op_type == "Gemm" and not attributes.get("transB", 0):
            weights = weights.T  # (inputs, outputs) -> (outputs, inputs)
        error = (_rounded(weights) - weights).reshape(*weights.shape[:2], -1).sum(axis=2)  # (outputs, inputs a group)
        groups = attributes.get("group", 1)
        means = seen.channel_means.reshape(groups, -1)
        shift = np.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), means).reshape(-1)
        bias = constants[node.input[2]]
        values = onnx.numpy_helper.to_array(bias) - shift
        bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), bias.name))
    return model


def _rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (outputs, ...) on the grid of symmetric int8 per output channel, -127..127."""
    scale = np.abs(weights).reshape(len(weights), -1).max(axis=1) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale).reshape(-1, *[1] * (weights.ndim - 1))
    grid: NDArray[np.float32] = (np.clip(np.round(weights / scale), -127, 127) * scale).astype(np.float32)
    return grid


def insert_qdq(model: Any, ranges: dict[str, Statistics], operators: Iterable[str], estimator: Ranges) -> bytes:
    """Write Q/DQ pairs around operators: asymmetric uint8 activations, symmetric int8 weights per output channel.

    ranges: of every float tensor, from `calibrate`. Uses onnxruntime's Q/DQ writer with our own calibration.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    table = {}
    for name, seen in ranges.items():
        low, high = seen.range(estimator)
        table[name] = TensorData(lowest=np.float32(low), highest=np.float32(high))
    try:
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(copy.deepcopy(model)),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, table),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=list(operators),
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    except (ValueError, KeyError, RuntimeError) as exc:
        raise ComputationError(f"onnxruntime cannot write Q/DQ for this graph: {exc}") from exc
    quantized = quantizer.model.model
    onnx.checker.check_model(quantized, full_check=True)
    onnx.helper.set_model_props(quantized, {prop.key: prop.value for prop in model.metadata_props})
    content: bytes = quantized.SerializeToString()
    return content


def _measure(content: bytes, check: Image, opened: bundle.Bundle) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Outputs on the check images (first backend), and the median milliseconds at batch 1 on every backend."""
    outputs: NDArray[np.float32] | None = None
    feed = {INPUT: np.ascontiguousarray(check[:1])}
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / "candidate.onnx"
        file.write_bytes(content)
        for name in backends.available():
            try:
                backend = backends.get(name)(file, Options())
            except ModelFileError:
                continue  # this backend does not take the dialect; `verify` will say why
            try:
                if outputs is None:
                    outputs = verify.infer(backend, opened.manifest, check)
                times[name] = statistics.median(times_ms(partial(backend.run, feed), 0.25))
            finally:
                backend.close()
    if outputs is None:
        raise BackendUnavailable("no backend here runs the quantized file: pip install 'edgecv[onnxruntime]'")
    return outputs, times


def _batches(images: Image) -> Iterator[Image]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def _check_real(images: Image) -> None:
    """Refuse noise and blanks: in a real image neighbouring pixels are alike, and images differ from one another.

    Measure: correlation of horizontally neighbouring pixels; photographs lie above 0.8, noise near 0.
    """
    sample = images[:: max(1, len(images) // 64)].astype(np.float32)
    left, right = sample[:, :, :-1].ravel(), sample[:, :, 1:].ravel()
    if np.ptp(sample) == 0 or np.ptp(sample, axis=0).max() == 0:
        raise BadInput("calibration images are all the same; give real images of what the camera will see")
    if np.corrcoef(left, right)[0, 1] < 0.2:
        raise BadInput("calibration images look like noise; give real images of what the camera will see")


def _add(opened: bundle.Bundle, chosen: Candidate, images: int) -> None:
    variant = Variant(
        name=DIALECT,
        file=f"model.{DIALECT}.onnx",
        precision="int8",
        calibration=Calibration(images=images, ranges=chosen.ranges, operators=PLACEMENTS[chosen.placement]),
    )
    others = tuple(each for each in opened.manifest.variants if each.name != DIALECT)
    manifest = msgspec.structs.replace(opened.manifest, variants=(*others, variant))
    golden = opened.golden().sealing(variant.file, chosen.content)
    bundle.update(opened, manifest=manifest, content={variant.file: chosen.content, bundle.GOLDEN: golden.to_bytes()})
