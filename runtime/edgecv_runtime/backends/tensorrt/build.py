"""From an ONNX file to a serialized TensorRT engine; TensorRT-RTX does it for a GPU that is not here."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime import files
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.api import IBuilderConfig, Library
from edgecv_runtime.backends.tensorrt.cuda import Gpu
from edgecv_runtime.backends.tensorrt.network import MAX_BATCH, Parsed
from edgecv_runtime.backends.tensorrt.progress import Progress, monitor
from edgecv_runtime.errors import BackendUnavailable, BadInput, ModelFileError

log = logging.getLogger("edgecv.tensorrt")


@dataclass(frozen=True)
class Plan:
    """What an engine is built for.

    max_batch: batches of 1 to this, fastest at 1. dla: the core of a Jetson's deep learning accelerator, with the GPU
    for what it cannot run; None for the GPU alone. The DLA has one batch size only.
    """

    max_batch: int = MAX_BATCH
    dla: int | None = None

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise BadInput(f"max_batch must be at least 1, got {self.max_batch}")
        if self.dla is not None and self.max_batch != 1:
            raise BadInput(f"the DLA takes no dynamic batch: max_batch must be 1, got {self.max_batch}")


def build_here(
    model: Path,
    plan: Plan = Plan(),
    *,
    compute_capabilities: Sequence[tuple[int, int]] = (),
    timing: Path | None = None,
) -> bytes:
    """Build a serialized engine in this process: what `builder.build_engine` has its child do."""
    trt = api.library()
    parsed, config = _configured(model, plan, trt)
    _aim(trt, config, compute_capabilities)
    profiles = parsed.profiles(plan.max_batch)
    if profiles:
        profile = parsed.builder.create_optimization_profile()
        for name, shapes in profiles.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    timing = None if api.abilities(trt).rtx else timing
    if timing is not None:
        attach_timing_cache(config, timing)
    progress = Progress(model.name)
    watching = monitor(trt, progress) if api.abilities(trt).progress else None  # lives until the build is over
    if watching is not None:
        config.progress_monitor = watching
    log.info("%s: building its engine with %s %s; on a Jetson this takes minutes", model.name, *_version(trt))
    began = time.monotonic()
    engine = parsed.builder.build_serialized_network(parsed.network, config)
    if engine is None:
        raise ModelFileError(f"{model}: tensorrt cannot build an engine: {api.first_error()}")
    log.info("%s: engine built in %.1f s, %.1f MB", model.name, time.monotonic() - began, engine.nbytes / 1e6)
    if timing is not None:
        keep_timing_cache(config, timing)
    return bytes(engine)


def placement(model: Path, plan: Plan) -> dict[str, int]:
    """Convolutions and matrix products by precision and by where the DLA's builder puts them: "fp16 on dla:0"."""
    parsed, config = _configured(model, plan, api.library())
    counts: Counter[str] = Counter()
    for index, precision in parsed.precisions().items():
        where = f"dla:{plan.dla}" if config.can_run_on_DLA(parsed.layers[index]) else "gpu (fall-back)"
        counts[f"{precision} on {where}"] += 1
    return dict(counts)


def check_serves(trt: Library, gpu: Gpu) -> None:
    """Raise BackendUnavailable when TensorRT-RTX, made for GeForce and RTX, does not serve a GPU."""
    known = api.abilities(trt).targets
    if known and gpu.compute_capability not in known:
        raise BackendUnavailable(
            f"TensorRT-RTX does not serve {gpu.name} (compute capability {_dotted(gpu.compute_capability)}; "
            f"it serves {', '.join(map(_dotted, known))}): install TensorRT itself, pip install tensorrt"
        )


def attach_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Give a build the times that earlier builds measured; what TensorRT does not take is left for a new one."""
    kept = b""
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        pass  # the first build
    except OSError as exc:  # of another user, say: it costs time, no more
        log.warning("%s: the timing cache cannot be read: %s", path, exc)
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):
        log.warning("%s: TensorRT does not take this timing cache: starting a new one", path)
        empty = config.create_timing_cache(b"")
        if empty is not None:
            config.set_timing_cache(empty, False)


def keep_timing_cache(config: IBuilderConfig, path: Path) -> None:
    """Write the times that a build measured, and those it was given; one that cannot be written costs time, no more."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        files.write(path, bytes(cache.serialize()))
    except OSError as exc:
        log.warning("%s: the timing cache cannot be kept: %s", path, exc)


def keeps_types(trt: Library, plan: Plan) -> bool:
    """Whether a network is strongly typed: where the release has it, but for a DLA that takes its precision by flag."""
    can = api.abilities(trt)
    return can.strong_typing and (plan.dla is None or not can.precision_flags)


def _configured(model: Path, plan: Plan, trt: Library) -> tuple[Parsed, IBuilderConfig]:
    """A parsed network and the settings it is built with, but for its target and profile."""
    parsed = Parsed(model, trt, strong=keeps_types(trt, plan))
    config = parsed.builder.create_builder_config()
    flags = trt.BuilderFlag.__members__
    config.clear_flag(flags["TF32"])  # on by default: it rounds float32 to 10 bits of mantissa
    # Else the inspector knows no precisions.
    config.profiling_verbosity = trt.ProfilingVerbosity.__members__["DETAILED"]
    permissions = parsed.permissions()
    for name in permissions:
        config.set_flag(flags[name])
    if "FP16" in permissions:
        config.set_flag(flags["OBEY_PRECISION_CONSTRAINTS"])
        parsed.pin_float32(trt.DataType.__members__["FLOAT"])
    if plan.dla is not None:
        cores = parsed.builder.num_DLA_cores
        if plan.dla >= cores:
            raise BadInput(
                f"device 'dla:{plan.dla}': {trt.__name__} {trt.__version__} finds {cores} DLA cores here; "
                "Jetson Orin and Xavier have them, TensorRT-RTX serves none: take device 'gpu'"
            )
        config.default_device_type = trt.DeviceType.__members__["DLA"]
        config.DLA_core = plan.dla
        config.set_flag(flags["GPU_FALLBACK"])
    return parsed, config


def _aim(trt: Library, config: IBuilderConfig, wanted: Sequence[tuple[int, int]]) -> None:
    """Say which GPUs an engine is for; TensorRT itself always builds for the one it runs on."""
    known = api.abilities(trt).targets
    if not known:
        if wanted:
            raise BadInput("only TensorRT-RTX builds for a GPU that is not here: pip install tensorrt-rtx-cu13")
        return
    for each in wanted:
        if each not in known:
            raise BadInput(
                f"{trt.__name__} cannot build for compute capability {_dotted(each)}; "
                f"it can for {', '.join(map(_dotted, known))}"
            )
    targets = [known[each] for each in wanted] or [trt.ComputeCapability.__members__["CURRENT"]]
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(target, index)


def _version(trt: Library) -> tuple[str, str]:
    return ("TensorRT-RTX" if api.abilities(trt).rtx else "TensorRT", trt.__version__)


def _dotted(compute_capability: tuple[int, int]) -> str:
    return "{}.{}".format(*compute_capability)
