import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime import Bundle, machine, verify
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Evidence, Finding
from edgecv_runtime.manifest import Budget
from edgecv_runtime.offers import offered


@given(count=st.integers(1, 500), share=st.floats(0, 1))
def test_the_wilson_interval_solves_its_equation(count, share):
    """Oracle: the bounds are where |p - p0| = z * sqrt(p0 (1 - p0) / n) (Wilson 1927)."""
    hits = round(share * count)
    interval = verify.wilson(hits, count)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            wanted = 1.959964 * math.sqrt(bound * (1 - bound) / count)
            assert abs(interval.value - bound) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(BadInput, match="at least one frame"):
        verify.wilson(0, 0)


def test_agreement_of_equal_outputs_is_whole():
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    same = verify.agreement(logits, logits, "x")
    assert (same.share.value, same.max_abs, same.divergence) == (1.0, 0.0, 0.0)


def test_agreement_measures_by_hand_checked_numbers():
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    outputs = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    found = verify.agreement(reference, outputs, "x")
    assert found.share.value == 0.5  # the tie 0.5, 0.5 goes to the first class
    assert found.max_abs == pytest.approx(math.log(2), abs=1e-6)
    assert found.divergence == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, abs=1e-6)


def test_the_drop_is_paired():
    labels = np.zeros(100, np.int64)
    right, wrong = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    reference = np.array([right] * 90 + [wrong] * 10)
    outputs = np.array([right] * 88 + [wrong] * 12)
    found = verify.score(reference, outputs, labels)
    assert found.value == 0.88
    assert found.reference == 0.90
    assert found.drop == pytest.approx(2.0)
    assert found.drop_low <= 2.0 <= found.drop_high < 6  # two unpaired intervals would reach far beyond


def test_every_target_has_its_entry_and_executed_precision(finished):
    with Bundle(finished) as opened:
        entries = opened.evidence().entries
    executed = {(each.variant, each.backend, each.hint): each.executed for each in entries}
    assert executed["float32", "onnxruntime", "float32"] == "float32"
    assert executed["float32", "openvino", "float32"] == "float32"
    assert executed["int8-u8s8", "onnxruntime", "float32"] == "int8"
    assert executed["int8-u8s8", "openvino", "float32"] == "int8"
    for each in entries:
        assert each.agreement.reference == "PyTorch float32"
        assert each.score.count == 200
        assert each.latency.p50_ms <= each.latency.p90_ms <= each.latency.p99_ms <= each.latency.max_ms
        if each.executed == "float32":
            assert each.agreement.share.value == 1.0
            assert each.agreement.max_abs < 1e-3


def test_golden_inputs_prove_a_device_without_pytorch(finished):
    with Bundle(finished) as opened:
        for each in verify.verify(opened):
            assert each.entry.agreement.share.count == 8
            assert each.entry.agreement.reference == "golden"


def test_arrays_that_do_not_match_are_refused(finished):
    with Bundle(finished) as opened:
        golden = opened.golden()
        with pytest.raises(BadInput, match="8 frames, 7 reference outputs"):
            verify.verify(opened, golden.images, golden.logits[:7])


def judged(path, **changes):
    """The int8 variant after its openvino entries got other figures."""
    with Bundle(path) as opened:
        evidence = opened.evidence()
        manifest = opened.manifest
        if "budget" in changes:
            manifest = msgspec.structs.replace(manifest, budget=changes.pop("budget"))
        entries = []
        for each in evidence.entries:
            if each.variant == "int8-u8s8" and each.backend == "openvino":
                for field, inner in changes.items():
                    # a made up time has no pairs
                    inner = {**inner, "session": ""} if inner and field == "latency" else inner
                    value = None if inner is None else msgspec.structs.replace(getattr(each, field), **inner)
                    each = msgspec.structs.replace(each, **{field: value})
            entries.append(each)
        return offered(manifest, Evidence(tuple(entries)), machine.this())


def test_int8_within_budget_and_faster_is_offered(finished):
    offers = judged(finished, score={"drop": 0.1, "drop_low": -0.2, "drop_high": 0.4}, latency={"p50_ms": 0.0001})
    assert "openvino" in offers.backends("int8-u8s8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"score": {"drop": 0.6, "drop_low": 0.1, "drop_high": 1.1}},
            r"loses 0.60 points of top-1 \(0.1 to 1.1\) on 200 .*, the budget is 0.5",
        ),
        (
            {"latency": {"p50_ms": 1e6}, "score": {"drop": 0.0, "drop_low": -0.3, "drop_high": 0.3}},
            "slower than (float32|bf16) \\(1000000.00 against",
        ),
        (
            {"latency": None, "score": {"drop": 0.0, "drop_low": -0.3, "drop_high": 0.3}},
            "not measured here; run 'edgecv bench'",
        ),
        ({"agreement": None}, "not verified; run 'edgecv verify'"),
        (
            {"score": None, "budget": Budget(min_agreement=1.0), "agreement": {"share": verify.wilson(80, 100)}},
            "agrees with PyTorch float32 on 80.0% of 100 frames, the budget is 100.0%",
        ),
        (  # what was asked for counts beside the labels
            {
                "score": {"drop": 0.0, "drop_low": -0.3, "drop_high": 0.3},
                "budget": Budget(min_agreement=0.95),
                "agreement": {"share": verify.wilson(80, 100)},
            },
            "agrees with PyTorch float32 on 80.0% of 100 frames, the budget is 95.0%",
        ),
    ],
)
def test_int8_that_breaks_a_limit_is_withheld_with_the_reason(finished, changes, said):
    offers = judged(finished, **changes)
    assert "openvino" not in offers.backends("int8-u8s8")
    import re

    assert re.search(said, offers.withheld("int8-u8s8")["openvino"])


def test_a_float_file_that_differs_is_withheld(finished_copy):
    """One damaged constant: float32 on every backend disagrees with the golden outputs and is no longer offered."""
    import onnx

    from edgecv_runtime import bundle as bundles

    with Bundle(finished_copy) as opened:
        model = onnx.load(opened.variant_file("float32"))
        tensor = next(each for each in model.graph.initializer if len(each.dims) == 4)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0] *= -3
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        bundles.update(opened, content={"model.onnx": model.SerializeToString()})
    with Bundle(finished_copy) as opened:
        entries = [each.entry for each in verify.verify(opened)]
        offers = offered(opened.manifest, opened.evidence().merged(entries), machine.this())
    assert offers.backends("float32") == ()
    assert offers.withheld("float32")["onnxruntime"].startswith("wrong mean or scale in the graph: 'scale'")


def test_a_backend_that_cannot_run_a_file_is_evidence_and_not_the_end(finished_copy, monkeypatch):
    """TensorRT refuses asymmetric int8, say: the others are verified and timed all the same."""
    from edgecv_runtime import bundle as bundles
    from edgecv_runtime.backends.openvino import OpenVinoBackend
    from edgecv_runtime.bench.latency import bench
    from edgecv_runtime.bench.table import rows
    from edgecv_runtime.errors import ModelFileError

    real = OpenVinoBackend.__init__

    def refuse(self, model, options):
        if "int8" in model.name:
            raise ModelFileError(f"{model.name}: unsupported zero point")
        real(self, model, options)

    monkeypatch.setattr(OpenVinoBackend, "__init__", refuse)
    with Bundle(finished_copy) as opened:
        entries = [each.entry for each in verify.verify(opened)]
        evidence = opened.evidence().merged(entries)
        bundles.update(opened, evidence=evidence)
    failed = [each for each in entries if each.failed]
    assert [(each.variant, each.backend) for each in failed] == [("int8-u8s8", "openvino")]
    with Bundle(finished_copy) as opened:
        offers = offered(opened.manifest, opened.evidence(), machine.this())
        why = offers.withheld("int8-u8s8")["openvino"]
        assert why == "does not run: model.int8-u8s8.onnx: unsupported zero point"
        (row,) = [row for row in rows(opened) if row.variant == "int8-u8s8" and row.backend == "openvino"]
        assert not row.offered
        assert bench(opened, seconds=0.02, rounds=1)  # in processes of their own, where nothing is refused


def agreeing(entry, hits, count):
    return msgspec.structs.replace(
        entry, agreement=msgspec.structs.replace(entry.agreement, share=verify.wilson(hits, count))
    )


def test_fewer_frames_that_agree_do_not_replace_more_frames(finished):
    """Eight golden inputs can withhold a variant that a real data set offered, and never offer one that it withheld."""
    with Bundle(finished) as opened:
        evidence = opened.evidence()
        old = agreeing(evidence.entries[0], 178, 200)
        before = Evidence(entries=(old,))
    (kept,) = before.merged([agreeing(old, 8, 8)]).entries
    assert kept.agreement.share.count == 200
    (contradicted,) = before.merged([agreeing(old, 2, 8)]).entries
    assert contradicted.agreement.share.count == 8
    (more,) = before.merged([agreeing(old, 400, 500)]).entries
    assert more.agreement.share.count == 500
    other = msgspec.structs.replace(agreeing(old, 8, 8), versions={"onnxruntime": "9.9"}, latency=None)
    (new_version,) = before.merged([other]).entries
    assert (new_version.agreement.share.count, new_version.latency) == (8, None)


def test_fewer_labelled_frames_replace_a_score_only_where_they_show_another_drop(finished):
    """int8 withheld on 5000 labelled images stays so after ten photos, which could not tell 7 points from none."""
    with Bundle(finished) as opened:
        manifest = opened.manifest
        like = next(each for each in opened.evidence().entries if each.variant == "int8-u8s8" and each.score)

    def scored(count, drop, low, high, hits):
        score = msgspec.structs.replace(
            like.score, count=count, drop=drop, drop_low=low, drop_high=high, frames=f"images of {count}"
        )
        entry = agreeing(msgspec.structs.replace(like, finding=None, score=score), hits, count)
        return msgspec.structs.replace(
            entry, agreement=msgspec.structs.replace(entry.agreement, frames=f"images of {count}")
        )

    before = Evidence((scored(5000, 7.0, 6.2, 7.8, 4600),))
    for few in (scored(10, 0.0, -23.0, 23.0, 10), scored(10, 0.0, -23.0, 23.0, 3)):
        (kept,) = before.merged([few]).entries
        assert kept.score == before.entries[0].score
        assert kept.agreement.share.count == (5000 if few.agreement.share.value == 1 else 10)
        why = offered(manifest, Evidence((kept,)), machine.this()).withheld("int8-u8s8")
        assert "loses 7.00 points" in why[like.backend]
    for other in (scored(800, 0.1, -0.5, 0.7, 790), scored(6000, 0.1, 0.0, 0.2, 5990)):
        assert before.merged([other]).entries == (msgspec.structs.replace(other, latency=like.latency),)


def test_a_finding_stays_with_the_agreement_beside_which_it_was_found(finished):
    with Bundle(finished) as opened:
        plain = msgspec.structs.replace(opened.evidence().entries[0], score=None, finding=None)
    fault = Finding("quantization loses too much", "made up", "none")
    before = Evidence((msgspec.structs.replace(agreeing(plain, 150, 200), finding=fault),))
    (few,) = before.merged([agreeing(plain, 8, 8)]).entries
    assert (few.agreement.share.count, few.finding) == (200, fault)
    (more,) = before.merged([agreeing(plain, 400, 500)]).entries
    assert (more.agreement.share.count, more.finding) == (500, None)
    clean = Evidence((agreeing(plain, 200, 200),))
    (withheld,) = clean.merged([msgspec.structs.replace(agreeing(plain, 8, 8), finding=fault)]).entries
    assert withheld.finding == fault  # a self-test can withhold


def test_nan_on_one_target_is_evidence_and_the_others_are_verified(finished_copy):
    import onnx

    from edgecv_runtime import bundle as bundles

    with Bundle(finished_copy) as opened:
        model = onnx.load(opened.variant_file("float32"))
        bias = next(each for each in model.graph.initializer if each.name == model.graph.node[-1].input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
        bundles.update(opened, content={"model.onnx": model.SerializeToString()})
    with Bundle(finished_copy) as opened:
        entries = [each.entry for each in verify.verify(opened)]
        offers = offered(opened.manifest, opened.evidence().merged(entries), machine.this())
    assert "8 of 8 outputs hold NaN" in next(each.failed for each in entries if each.backend == "onnxruntime")
    assert offers.withheld("float32")["onnxruntime"].startswith("damaged weights: '/network/head")
    assert all(each.agreement for each in entries if each.variant == "int8-u8s8")
