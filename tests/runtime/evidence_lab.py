"""Evidence made up for tests: a finished bundle's entries with other figures."""

import msgspec

from edgecv_runtime import Bundle, machine, verify
from edgecv_runtime import bundle as bundles
from edgecv_runtime.evidence import Evidence, Finding

FLOATS = {("float32", "onnxruntime", "float32"): "", ("float32", "openvino", "float32"): ""}
ELSEWHERE = msgspec.structs.replace(machine.this(), cpu="Some Jetson", cores=6, gpu="")


def made_up(like, verdict, key, where):
    """An entry that keeps every budget and takes 1 ms (float32: 2 ms), or `verdict` ms, or has that fault."""
    variant, backend, hint = key
    ms = verdict if isinstance(verdict, float) else 2.0 if (variant, hint) == ("float32", "float32") else 1.0
    return msgspec.structs.replace(
        like,
        variant=variant,
        backend=backend,
        hint=hint,
        machine=where,
        failed="",
        finding=Finding(verdict, "made up", "none") if isinstance(verdict, str) and verdict else None,
        agreement=msgspec.structs.replace(like.agreement, share=verify.wilson(200, 200), max_abs=0.0),
        score=None,
        latency=msgspec.structs.replace(like.latency, p50_ms=ms, session=""),
    )


def tell(path, verdicts, where=None):
    """Replace a finished bundle's evidence: "" (offered), a fault, or milliseconds by (variant, backend, hint).

    Float32 on both backends is offered where nothing else is said.
    """
    with Bundle(path) as opened:
        known = {entry.variant: entry for entry in opened.evidence().entries if entry.agreement}
        entries = [
            made_up(known.get(key[0], known["int8-u8s8"]), verdict, key, where or machine.this())
            for key, verdict in {**FLOATS, **verdicts}.items()
        ]
        digests = {each.name: opened.sha256(each.name) for each in opened.manifest.variants}
        entries = [msgspec.structs.replace(each, sha256=digests[each.variant]) for each in entries]
        bundles.update(opened, evidence=Evidence(tuple(entries)))


def int8(verdicts):
    """Verdicts on int8-u8s8 by backend, as `tell` takes them."""
    return {("int8-u8s8", backend, "float32"): verdict for backend, verdict in verdicts.items()}
