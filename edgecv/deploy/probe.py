"""`python -m edgecv.deploy.probe BUNDLE`: whether a bundle answers here, and answers what PyTorch did (exit code 0).

Runs on the device, by the release's own environment: the model is loaded as a program would load it, runs its golden
inputs, and what it runs on is said.
"""

from __future__ import annotations

import sys

import edgecv_runtime as rt
from edgecv_runtime.errors import EdgecvError


def probe(bundle: str) -> str:
    """Load a bundle with its self-test -> what runs; raises what `load` raises."""
    with rt.load(bundle, self_test=True) as model:
        return f"{model.info.variant} on {model.info.backend}, runs in {model.info.precision}; self-test passed"


def main() -> int:
    """Print one line; the exit code of an error is edgecv's."""
    try:
        print(probe(sys.argv[1]))  # noqa: T201
    except EdgecvError as exc:
        print(" ".join(str(exc).split()))  # noqa: T201
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
