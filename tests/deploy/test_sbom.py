"""What a deployment holds, against the schema of CycloneDX in its own library, and pip's list of what is installed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.deploy import sbom
from edgecv_runtime import Bundle
from edgecv_runtime.errors import BadInput

DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"


def made(tmp_path, *words):
    path = tmp_path / "bom.json"
    done = CliRunner().invoke(app, ["sbom", *words, "--out", str(path)])
    assert done.exit_code == 0, done.output
    return path.read_text(), done.stdout


def installed(folder, name, *lines):
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]) + "\n"
    )


def test_the_document_is_one_of_cyclonedx_and_says_what_pip_says(tmp_path):
    text, table = made(tmp_path, str(DIGITS))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = {(sbom._canonical(each["name"]), each["version"]) for each in json.loads(listed.stdout)}
    libraries = [each for each in found["components"] if each["type"] == "library"]
    assert {(each["name"], each["version"]) for each in libraries} == wanted
    for each in libraries:
        address = PackageURL.from_string(each["purl"])
        assert (address.type, address.name, address.version) == ("pypi", each["name"], each["version"])
        assert f"{each['name']}" in table
    needs = {each["ref"].partition("@")[0]: each["dependsOn"] for each in found["dependencies"]}
    assert any(each.startswith("pkg:pypi/numpy@") for each in needs["pkg:pypi/edgecv"])


def test_the_files_of_a_bundle_have_their_own_digests(tmp_path):
    found = json.loads(made(tmp_path, str(DIGITS))[0])
    (model,) = [each for each in found["components"] if each["type"] == "machine-learning-model"]
    with Bundle(DIGITS) as bundle:
        there = {each.name: each for each in bundle.root.rglob("*") if each.is_file()}
        assert {each["name"] for each in model["components"]} == {
            str(each.relative_to(bundle.root)) for each in there.values()
        }
        for each in model["components"]:
            digest = hashlib.sha256(bundle.file(each["name"]).read_bytes()).hexdigest()
            assert each["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_licences_are_what_packages_say(tmp_path):
    installed(tmp_path, "one", "License-Expression: MIT OR Apache-2.0", "License: old")
    installed(tmp_path, "two", "License: BSD 3-Clause", "Requires-Dist: One>=1; extra == 'x'")
    installed(
        tmp_path, "three", f"License: {'the whole text ' * 99}", "Classifier: License :: OSI Approved :: MIT License"
    )
    installed(tmp_path, "four", "License: UNKNOWN")
    found = {each.name: each for each in sbom.packages(tmp_path)}
    assert {name: each.license for name, each in found.items()} == {
        "one": "MIT OR Apache-2.0", "two": "BSD 3-Clause", "three": "MIT License", "four": "not said",
    }  # fmt: skip
    assert found["two"].needs == ("one",)
    document = sbom.document(found.values())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert document["serialNumber"] == sbom.document(found.values())["serialNumber"]
    assert "licenses" not in next(each for each in document["components"] if each["name"] == "four")


def test_a_folder_without_packages_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no packages are there"):
        sbom.packages(tmp_path)
