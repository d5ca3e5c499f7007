"""What a deployment holds: packages, licences, a bundle's files; CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from edgecv_runtime import files, jsontext
from edgecv_runtime.bundle import MANIFEST, Bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

UNKNOWN = "not said"
_OSI = "License :: OSI Approved :: "
_LONG = 100  # characters: a package whose field holds the whole text of its licence, and no name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Package(Record, frozen=True):
    """An installed package. license: as it says itself, an expression of SPDX where is_expression is true.

    record: SHA-256 of its list of files, which has theirs; "" where it has none. needs: packages that are here.
    """

    name: str
    version: str
    license: str
    is_expression: bool
    record: str
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its address (https://github.com/package-url/purl-spec)."""
        return f"pkg:pypi/{self.name}@{self.version}"


def packages(environment: Path | None = None) -> list[Package]:
    """The packages of this environment, or of one in a folder, by name; raises BadInput where there is none."""
    if environment is None:
        found = list(metadata.distributions())
    else:
        places = [str(each) for each in (environment, *environment.glob("lib*/python*/site-packages"))]
        found = list(metadata.distributions(path=places))
    if not found:
        raise BadInput(f"{environment}: no packages are there: expected an environment, or a folder of packages")
    first: dict[str, Distribution] = {}
    for each in found:
        if each.metadata["Name"]:
            first.setdefault(_canonical(each.metadata["Name"]), each)  # the one that is imported
    return [_package(name, first[name], first) for name in sorted(first)]


def document(found: Iterable[Package], bundle: Bundle | None = None, now: datetime | None = None) -> dict[str, Any]:
    """The document; now: when it was made, else SOURCE_DATE_EPOCH, or now. Equal contents have one serial number."""
    listed = list(found)
    moment = now or _now()
    components = [_component(each) for each in listed]
    if bundle is not None:
        components.append(_model(bundle))
    serial = uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(jsontext.encode(components)).hexdigest())
    versions = {each.name: each for each in listed}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "edgecv", "version": metadata.version("edgecv")}]},
        },
        "components": components,
        "dependencies": [
            {"ref": each.purl, "dependsOn": [versions[name].purl for name in each.needs]} for each in listed
        ],
    }


def _package(name: str, found: Distribution, here: Iterable[str]) -> Package:
    said, is_expression = _license(found)
    record = found.read_text("RECORD")
    wanted = {_canonical(match[0]) for each in found.requires or () if (match := _NAME.match(each))}
    return Package(
        name,
        found.version,
        said,
        is_expression,
        hashlib.sha256(record.encode()).hexdigest() if record else "",
        tuple(sorted(wanted & set(here) - {name})),
    )


def _license(found: Distribution) -> tuple[str, bool]:
    """What a package says of its licence, and whether that is an expression (PEP 639)."""
    said = found.metadata.json  # names in lower case, with underscores
    if expression := said.get("license_expression"):
        return str(expression), True
    field = " ".join(str(said.get("license") or "").split())
    if field and field.upper() != "UNKNOWN" and len(field) <= _LONG:
        return field, False
    named = [each.rpartition(" :: ")[2] for each in found.metadata.get_all("Classifier") or () if each.startswith(_OSI)]
    return "; ".join(named) or UNKNOWN, False


def _component(each: Package) -> dict[str, Any]:
    licence = {"expression": each.license} if each.is_expression else {"license": {"name": each.license}}
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": each.purl,
        "name": each.name,
        "version": each.version,
        "purl": each.purl,
    }
    if each.license != UNKNOWN:
        found["licenses"] = [licence]
    if each.record:
        found["properties"] = [{"name": "edgecv:sha256-of-RECORD", "value": each.record}]
    return found


def _model(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    sums = {MANIFEST: files.sha256(bundle.file(MANIFEST))} | {
        name: each.sha256 for name, each in manifest.files.items()
    }
    ref = f"bundle:{manifest.name}"
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": manifest.name,
        "components": [
            {
                "type": "file",
                "bom-ref": f"{ref}/{name}",
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for name, digest in sums.items()
        ],
    }


def _canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _now() -> datetime:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), timezone.utc) if epoch.isdecimal() else datetime.now(timezone.utc)
