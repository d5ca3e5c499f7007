"""Prove that a file computes what its reference computes, and name what is wrong when it does not.

`verify` measures every variant on every backend, `check` looks at the bundle's own record and labels, `diagnose` at a
deployment's own code. Everything here compares arrays; where the reference comes from (PyTorch in `edgecv_export`,
golden inputs on a device) is the caller's affair.
"""

from __future__ import annotations

from edgecv_runtime.verify.chosen import float_logits, revealed
from edgecv_runtime.verify.compare import Comparison, Compute, Outputs, Truths, agreement, compare, score
from edgecv_runtime.verify.diagnose import against, against_file, diagnose, write_pictures
from edgecv_runtime.verify.fitting import fit_thresholds, wants_thresholds
from edgecv_runtime.verify.run import Verified, computing, float_reference, self_test, verify
from edgecv_runtime.verify.score import distance, wilson
from edgecv_runtime.verify.sealed import check

__all__ = [
    "Comparison",
    "Compute",
    "Outputs",
    "Truths",
    "Verified",
    "against",
    "against_file",
    "agreement",
    "check",
    "compare",
    "computing",
    "diagnose",
    "distance",
    "fit_thresholds",
    "float_logits",
    "float_reference",
    "revealed",
    "score",
    "self_test",
    "verify",
    "wants_thresholds",
    "wilson",
    "write_pictures",
]
