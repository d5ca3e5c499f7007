"""A finished bundle measured on this machine: proven, scored, timed, and what is offered then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgecv.data.given import Given
from edgecv_runtime import backends, bundle, machine
from edgecv_runtime import verify as verification
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.evidence import Entry, Evidence
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.offers import offered
from edgecv_runtime.target import Target

FLOAT = "float32"
SECONDS, ROUNDS = 0.3, 3  # of timing, where a search has timed before


def scored(
    opened: Bundle,
    given: Given,
    frames_name: str,
    backend: str = "auto",
    only: Callable[[Target], bool] = lambda _: True,
) -> list[Entry]:
    """Score and agreement of every target on images; of float32, no proof of itself, the agreement on golden inputs."""
    done = _beside_float(opened, given, frames_name, only, backend)
    proven = {entry.key: entry for entry in _proofs(opened, lambda each: _is_float(each) and only(each), backend)}
    entries = []
    for entry in done:
        proof = proven.get(entry.key, entry)
        found = {"agreement": proof.agreement, "finding": proof.finding, "failed": proof.failed}
        entries.append(msgspec.structs.replace(entry, **found))
    return entries


def measured(
    path: Path, given: Given | None, say: Callable[[str], None] = lambda _: None
) -> tuple[Manifest, Evidence, Unavailable | None]:
    """Fit thresholds, verify and time what is now in a bundle, and keep it there.

    given: what to verify with; None: the golden inputs. -> the manifest, the evidence, and why it could not be kept.
    """
    if given is not None and given.truths is not None:  # before: agreement is of what is shown
        with Bundle(path) as opened:
            verification.fit_thresholds(opened, given.frames, given.truths, given.views or None, say)
    with Bundle(path) as opened:
        # float32 is no proof of itself: against the golden outputs
        done = _proofs(opened, lambda each: given is None or _is_float(each))
        if given is not None:
            done += _beside_float(opened, given, "check images", lambda each: not _is_float(each))
        timed = bench(opened, seconds=SECONDS, rounds=ROUNDS, progress=say)
        evidence = opened.evidence().merged(list(Evidence(tuple(done)).merged(timed).entries))
        try:
            keep(opened, evidence)
        except Unavailable as exc:
            return opened.manifest, evidence, exc
    return opened.manifest, evidence, None


def keep(opened: Bundle, evidence: Evidence) -> None:
    """Put evidence into a bundle; raises Unavailable where that is not possible: the bundle is as it was then."""
    try:
        bundle.update(opened, evidence=evidence)
    except OSError as exc:
        why = f"{opened.path}: the evidence above cannot be kept: {exc.strerror}; the bundle is as it was"
        raise Unavailable(f"{why}; with --no-write 'verify' and 'bench' do not try") from exc


def states(manifest: Manifest, evidence: Evidence) -> dict[str, str]:
    """Per variant and backend, whether it is offered here and why not."""
    offers = offered(manifest, evidence, machine.this(), backends.available())
    rows: dict[str, str] = {}
    for variant in manifest.variants:
        rows |= {f"{variant.name} on {name}": "offered" for name in offers.backends(variant.name)}
        hints = offers.hints(variant.name)
        rows |= {f"{variant.name} on {name} ({each})": "offered" for name in hints for each in hints[name]}
        rows |= {f"{variant.name} on {name}": f"withheld, {why}" for name, why in offers.withheld(variant.name).items()}
    return rows


def _is_float(target: Target) -> bool:
    return (target.variant, target.hint) == (FLOAT, FLOAT)


def _proofs(opened: Bundle, only: Callable[[Target], bool], backend: str = "auto") -> list[Entry]:
    return [each.entry for each in verification.verify(opened, only=only, backend=backend)]


def _beside_float(
    opened: Bundle, given: Given, frames_name: str, only: Callable[[Target], bool], backend: str = "auto"
) -> list[Entry]:
    with verification.float_reference(opened) as expected:
        done = verification.verify(
            opened,
            given.frames,
            expected,
            reference_name="float32 here",
            labels=given.truths,
            views=given.views or None,
            frames_name=frames_name,
            logits=verification.float_logits(opened),
            only=only,
            backend=backend,
        )
    return [each.entry for each in done]
