"""What a quantization search tried, as the record beside the bundle that the report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecv.run.folder import Candidate, Quantization, beside
from edgecv_runtime import files, records

if TYPE_CHECKING:
    from pathlib import Path

    from edgecv_export.quantize import Quantized
    from edgecv_runtime.manifest import Budget


def record(done: Quantized, budget: Budget) -> Quantization:
    """What a search tried, for the report."""
    rows = tuple(
        Candidate(
            placement=each.placement,
            ranges=each.ranges,
            agreement=each.agreement.share.value,
            kl=each.agreement.divergence,
            p50_ms=each.p50_ms,
            chosen=each is done.chosen or each in done.others.values(),
            name=each.plan.name,
            drop_points=each.score.drop if each.score else None,
        )
        for each in done.candidates
    )
    return Quantization(done.float_ms, rows, done.bf16_ms, budget.max_drop_points)


def keep(done: Quantized, budget: Budget, bundle: Path) -> None:
    """Write the record beside the bundle, in the place of that of the search before: the report shows the newest."""
    files.write(beside(bundle, "quantize"), records.encode(record(done, budget)))
