"""`python -m edgecv_runtime.bench.answers BUNDLE OUT.npz`: what this environment answers to the golden inputs.

Prints evidence; the outputs of each way to run go to the file, named KEY/OUTPUT. Run by `edgecv bench --python`.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import numpy as np

from edgecv_runtime import spawned, verify
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.evidence import Entry, Evidence


def answers(path: str) -> tuple[list[Entry], dict[str, Any]]:
    """Evidence of every way to run, and the outputs as they are kept."""
    entries, outputs = [], {}
    with Bundle(path) as bundle:
        for each in verify.verify(bundle):
            entries.append(each.entry)
            for name, values in (each.outputs or {}).items():
                outputs[f"{'/'.join(each.entry.target)}/{name}"] = values
    return entries, outputs


def main() -> int:
    """Answer once."""
    with spawned.answers() as out:
        entries, outputs = answers(sys.argv[1])
        np.savez(sys.argv[2], **outputs)
        out.write(msgspec.json.encode(Evidence(tuple(entries))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
