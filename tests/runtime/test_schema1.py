"""A bundle that edgecv wrote before schema 2, with int8, fp16 and evidence, still does all that a bundle does."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv_runtime import Bundle, machine, verify
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.bench.table import rows
from edgecv_runtime.errors import BundleError
from edgecv_runtime.offers import offered

OLD = Path(__file__).parents[1] / "assets" / "digits-schema1.edgecv"


@pytest.fixture(scope="module")
def raw():
    """Its JSON files, as they are."""
    with zipfile.ZipFile(OLD) as archive:
        return {name: json.loads(archive.read(name)) for name in ("bundle.json", "evidence.json")}


@pytest.fixture
def folder(tmp_path):
    """The same as a folder that a test may change."""
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_it_says_what_it_said(raw):
    with Bundle(OLD) as opened:
        manifest, evidence = opened.manifest, opened.evidence()
    old = raw["bundle.json"]
    assert old["schema"] == 1
    assert (manifest.task, list(manifest.labels)) == (old["task"], old["labels"])
    assert (manifest.head.scores, manifest.head.thresholds) == ("logits", ())
    assert (manifest.budget.max_drop_points, manifest.provenance) == (
        old["budget"]["max_drop_points"],
        old["provenance"],
    )
    assert [each.name for each in manifest.variants] == [each["name"] for each in old["variants"]]
    assert manifest.variant("int8-u8s8").calibration.placement == old["variants"][1]["calibration"]["placement"]
    assert len(evidence.entries) == len(raw["evidence.json"]["entries"]) >= 6
    for new, told in zip(evidence.entries, raw["evidence.json"]["entries"], strict=True):
        assert (new.variant, new.backend, new.sha256) == (told["variant"], told["backend"], told["sha256"])
        agreement, accuracy = told["agreement"], told["accuracy"]
        assert new.agreement.share.value == agreement["top1"]["value"]
        assert (new.agreement.divergence, new.agreement.max_abs) == (agreement["kl"], agreement["max_abs"])
        assert (new.score.value, new.score.low, new.score.high, new.score.count) == tuple(
            accuracy["top1"][name] for name in ("value", "low", "high", "count")
        )
        assert new.score.reference == accuracy["reference"]["value"]
        drops = tuple(accuracy[name] for name in ("drop_points", "drop_low", "drop_high"))
        assert (new.score.drop, new.score.drop_low, new.score.drop_high) == drops
        assert new.latency.p50_ms == told["latency"]["p50_ms"]


def test_what_is_offered_follows_from_its_evidence_as_it_was_stored(raw):
    """The stored judgement, which is no longer read, is the oracle."""
    with Bundle(OLD) as opened:
        evidence = opened.evidence()
        offers = offered(opened.manifest, evidence, evidence.entries[0].machine)
        table = rows(opened)
    assert offers.machine == raw["bundle.json"]["judged_on"]
    stored = raw["bundle.json"]["variants"]
    assert any(each["withheld"] for each in stored)
    for each in stored:
        assert list(offers.backends(each["name"])) == each["backends"]
        assert offers.withheld(each["name"]) == each["withheld"]
        assert {name: list(hints) for name, hints in offers.hints(each["name"]).items()} == each["hints"]
    assert {(row.variant, row.backend) for row in table if row.offered} == {
        (each["name"], backend) for each in stored for backend in each["backends"]
    }


def test_it_runs_as_it_did(monkeypatch):
    with Bundle(OLD) as opened:
        (where,) = opened.evidence().machines().values()
    monkeypatch.setattr(machine, "this", lambda: where)  # as if on the machine that it was judged on
    with rt.load(OLD, self_test=True) as model:
        golden = model.bundle.golden()
        assert np.abs(model.run({"image": golden.images})["logits"] - golden.logits).max() < 0.05  # fp16, say
        assert model(model.bundle.golden().images[0]).label.startswith("digit ")
        assert "not int8-u8s8 on openvino: slower than" in model.explain()


def test_verify_and_bench_write_it_anew_and_reading_does_not(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with Bundle(folder) as opened:
        golden, entries = opened.golden(), opened.evidence().entries
        done = [each.entry for each in verify.verify(opened)] + bench(opened, seconds=0.01, rounds=1)
        assert all(each.finding is None and not each.failed for each in done)
        assert verify.check(opened) == []
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        bundles.update(opened, evidence=opened.evidence().merged(done))
    told = json.loads((folder / "bundle.json").read_bytes())
    assert told["schema"] == 2
    assert told["head"] == {
        "task": "classification",
        "labels": list(golden.labels),
        "scores": "logits",
        "thresholds": [],
    }
    assert not {"task", "labels", "judged_on"} & set(told)
    assert not {"backends", "withheld", "hints"} & set(told["variants"][0])
    with np.load(folder / "golden.npz") as arrays:
        assert {"outputs/logits", "picture_outputs/logits"} <= set(arrays)
        assert np.array_equal(arrays["outputs/logits"], golden.logits)
    with Bundle(folder) as opened:
        again = opened.golden()
        assert again.constants == golden.constants
        assert [each.name for each in again.pictures] == [each.name for each in golden.pictures]
        kept = {entry.key: entry for entry in opened.evidence().entries}
    assert all(kept[entry.key].agreement.share.count in (8, 200) for entry in entries)


def test_it_is_quantized_again(folder, digits):
    from edgecv_export.quantize import QuantizeConfig, quantize

    quantize(folder, digits[0][:64], QuantizeConfig(images=32, check_images=32, placements=("layers",), budget_s=0.1))
    with rt.load(folder, precision="int8-u8s8", backend="openvino") as model:
        assert model.info.precision == "int8"
        assert {entry.variant for entry in model.bundle.evidence().entries} == {"float32", "fp16"}


def test_an_archive_of_it_is_written_in_today_s_schema(tmp_path):
    with Bundle(OLD) as opened:
        bundles.write(tmp_path / "copy.edgecv", opened.manifest, opened.content())
    with Bundle(tmp_path / "copy.edgecv") as copy, Bundle(OLD) as opened:
        assert json.loads(copy.file("bundle.json").read_bytes())["schema"] == 2
        assert (copy.golden().to_bytes(), copy.evidence()) == (opened.golden().to_bytes(), opened.evidence())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "segmentation"}, "no task 'segmentation' in schema 1"),
        ({"labls": []}, "unknown key 'labls'; did you mean 'labels'"),
        ({"labels": "x"}, "labels: Expected 'array', got 'str'"),
        ({"schema": 0}, "schema 0 is not 2: use the edgecv version that wrote it"),
        ({"schema": "one"}, "schema: Expected 'int', got 'str'"),
    ],
)
def test_a_damaged_one_is_one_line(folder, raw, change, said):
    (folder / "bundle.json").write_text(json.dumps(raw["bundle.json"] | change))
    with pytest.raises(BundleError, match=said) as refused:
        Bundle(folder)
    assert "\n" not in str(refused.value)


def test_damaged_evidence_of_it_is_one_line(folder, raw):
    broken = raw["evidence.json"]
    broken["entries"][0]["agreement"]["top2"] = 1
    content = {name: folder / name for name in raw["bundle.json"]["files"]}
    content["evidence.json"] = json.dumps(broken).encode()
    with Bundle(folder) as opened:
        manifest = opened.manifest
    bundles.write(folder.parent / "new", manifest, content)
    told = json.loads((folder.parent / "new" / "bundle.json").read_bytes())
    (folder.parent / "new" / "bundle.json").write_text(json.dumps(raw["bundle.json"] | {"files": told["files"]}))
    with Bundle(folder.parent / "new") as opened, pytest.raises(BundleError, match=r"agreement\.top2"):
        opened.evidence()
