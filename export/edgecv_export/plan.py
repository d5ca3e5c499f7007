"""A plan is one way to quantize; the workshop makes its file."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from edgecv_export import grids, qdq
from edgecv_export.calibrate import Sample, calibrate, sample
from edgecv_export.deadline import Tick, unbounded
from edgecv_export.dialects import DIALECTS, Dialect, Grid, WeightRanges
from edgecv_export.lockstep import Lockstep, Pair
from edgecv_export.passes import CORRECTIONS, FLOAT_PASSES, PASSES
from edgecv_export.passes.moments import Moments, observe
from edgecv_export.passes.setting import Setting
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.ranges import ESTIMATORS, Ranges, Statistics
from edgecv_export.wiring import Wiring
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

# How many of the calibration images tell the layers' errors, which go through the network node by node, and how their
# inputs vary.
ERROR_IMAGES, MOMENT_IMAGES = 8, 32
# Activation functions that a backend makes part of the int8 layer before them: they only clip what it gives.
MERGED = ("Clip", "Relu")


class Plan(Record, frozen=True):
    """One way to quantize.

    placement: a row of PLACEMENTS; ranges, weight_ranges: estimators; passes: of PASSES; islands: names of the nodes
    that stay in float although the placement would quantize them.
    """

    placement: str = "all"
    ranges: Ranges = "min-max"
    weight_ranges: WeightRanges = "min-max"
    passes: tuple[str, ...] = ("bias",)
    islands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise BadInput(f"placements are {', '.join(PLACEMENTS)}; got '{self.placement}'")
        if self.ranges not in ESTIMATORS:  # an older bundle's variant may name one that was removed
            raise BadInput(f"ranges are {', '.join(ESTIMATORS)}; got '{self.ranges}'")
        unknown = sorted(set(self.passes) - set(PASSES))
        if unknown:
            raise BadInput(f"passes are {', '.join(PASSES)}; got '{unknown[0]}'")

    @property
    def name(self) -> str:
        """What a person reads of it."""
        weights = [] if self.weight_ranges == "min-max" else [f"weights {self.weight_ranges}"]
        islands = [f"{len(self.islands)} islands"] if self.islands else []
        return ", ".join([self.placement, self.ranges, *weights, *self.passes, *islands])


class Workshop:
    """Makes int8 files of one float32 graph; every float form of the graph is calibrated once.

    model: onnx.ModelProto; images: preprocessed, to calibrate with.
    Raises BadInput when the graph is quantized already, ComputationError when calibration meets NaN.
    """

    def __init__(self, model: Any, images: Sample, where: str = "the model") -> None:
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
            raise BadInput(f"{where}: is already quantized; quantize the float32 model")
        self.images = images
        self._plain = Wiring(model)
        self._forms: dict[tuple[str, ...], tuple[Wiring, Mapping[str, Statistics]]] = {}
        self._moments: dict[tuple[str, ...], Mapping[str, Moments]] = {}

    @cached_property
    def float_forms(self) -> dict[str, Wiring]:
        """The float graph after each float pass that finds something to do in it."""
        wiring, statistics = self.form(())
        changed = {name: change(wiring, statistics) for name, change in FLOAT_PASSES.items()}
        return {name: form for name, form in changed.items() if form is not None}

    def check_names(self, nodes: tuple[str, ...]) -> None:
        """Refuse names of nodes that the graph does not have, with the nearest that it has."""
        wiring, _ = self.form(())
        for name in nodes:
            if name not in wiring.nodes:
                near = difflib.get_close_matches(name, wiring.nodes, n=1)
                cure = f"did you mean '{near[0]}'?" if near else "'edgecv quantize' and 'edgecv verify' name them"
                raise BadInput(f"the graph has no node '{name}' to keep in float; {cure}")

    def form(self, passes: tuple[str, ...], tick: Tick = unbounded) -> tuple[Wiring, Mapping[str, Statistics]]:
        """The float graph after some float passes, and its statistics."""
        if passes not in self._forms:
            wiring = self._plain
            if passes:
                before, statistics = self.form(passes[:-1], tick)
                wiring = FLOAT_PASSES[passes[-1]](before, statistics) or before
            self._forms[passes] = (wiring, calibrate(wiring.model, self.images.batches(), tick))
        return self._forms[passes]

    def make(self, plan: Plan, dialect: Dialect = DIALECTS["int8-u8s8"], tick: Tick = unbounded) -> bytes:
        """The ONNX file of a plan; raises BadInput when the plan leaves nothing to quantize.

        tick: called between all steps that take long; what it raises leaves everything as it was.
        """
        setting = self._corrected(plan, dialect, tick)
        return qdq.write(setting.wiring, setting.nodes, setting.grids, dialect)

    def errors(self, plan: Plan, dialect: Dialect = DIALECTS["int8-u8s8"]) -> dict[str, float]:
        """How far the output of each int8 layer is from float32's when everything before it is int8 as planned.

        By layer, in the graph's order: the norm of the difference over that of the float output, of the median image;
        a few images with far larger values would hide all others.
        """
        setting = self._corrected(plan, dialect, unbounded)
        original, _ = self.form(_float_passes(plan))
        found: dict[str, float] = {}

        def visit(pair: Pair) -> None:
            wanted, got = (each.reshape(len(each), -1) for each in (pair.wanted, pair.got))
            sizes = np.linalg.norm(wanted, axis=1)
            shares = np.linalg.norm(got - wanted, axis=1) / np.where(sizes > 0, sizes, 1)
            found[pair.layer.name] = float(np.median(shares))

        Lockstep(setting.wiring, setting.nodes, setting.grids, original).walk(self.images.some(ERROR_IMAGES), visit)
        return found

    def _corrected(self, plan: Plan, dialect: Dialect, tick: Tick) -> Setting:
        """The setting after its corrections."""
        setting = self.setting(plan, dialect, tick)
        for name, correct in CORRECTIONS.items():
            if name in plan.passes:
                corrected = correct(setting)
                nodes = [corrected.nodes[node.name] for node in setting.nodes]
                setting = dataclasses.replace(setting, wiring=corrected, nodes=nodes)
        return setting

    def setting(self, plan: Plan, dialect: Dialect = DIALECTS["int8-u8s8"], tick: Tick = unbounded) -> Setting:
        """The grid: nodes that compute in int8 and scale and zero point of every tensor, before any correction."""
        wiring, statistics = self.form(_float_passes(plan), tick)
        placement = PLACEMENTS[plan.placement]
        nodes = quantized_nodes(wiring, placement, plan.islands)
        if not nodes:
            raise BadInput(f"placement '{plan.placement}' finds no operator here that can be quantized")
        found: dict[str, Grid] = grids.calibrated(
            wiring, placement, nodes, statistics, dialect, plan.ranges, plan.weight_ranges
        )
        moments = self._observed(_float_passes(plan), tick) if "rounding" in plan.passes else {}
        return Setting(wiring, nodes, found, statistics, moments)

    def _observed(self, passes: tuple[str, ...], tick: Tick) -> Mapping[str, Moments]:
        """Moments of the layers' inputs in a float form, seen once."""
        if passes not in self._moments:
            wiring, _ = self.form(passes, tick)
            images = sample(self.images.some(MOMENT_IMAGES))
            self._moments[passes] = observe(wiring, images.batches(), tick)
        return self._moments[passes]

    def floats(self, plan: Plan) -> dict[str, int]:
        """Operators that compute in float under a plan, by type, with how many there are.

        An activation function that follows an int8 layer is none of them: backends merge it into that layer.
        """
        wiring, _ = self.form(_float_passes(plan))
        inside = {node.name for node in quantized_nodes(wiring, PLACEMENTS[plan.placement], plan.islands)}
        counts: dict[str, int] = {}
        for node in wiring.model.graph.node:
            maker = wiring.makers.get(next(iter(node.input), ""))
            merged = node.op_type in MERGED and maker is not None and maker.name in inside
            if node.name not in inside and not merged:
                counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return dict(sorted(counts.items()))


def _float_passes(plan: Plan) -> tuple[str, ...]:
    return tuple(name for name in FLOAT_PASSES if name in plan.passes)
