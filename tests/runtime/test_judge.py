"""The judgement on given figures: which float is int8's rival on a backend, and what each of them is offered for."""

from itertools import product
from types import MappingProxyType

import msgspec
import pytest

from edgecv.cli.verifying import _verified
from edgecv_runtime import Bundle, backends, machine, verify
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.manifest import Budget
from edgecv_runtime.offers import is_faithful, is_good, offered


@pytest.fixture
def judged(finished):
    """A function: figures by (variant, precision hint) on OpenVINO -> what is offered; kept, as top-1 agreement."""
    with Bundle(finished) as opened:
        manifest, entries = opened.manifest, opened.evidence().entries

    def judge(figures, scores=MappingProxyType({}), where=None, blocks=MappingProxyType({})):
        made = []
        here = machine.this()
        for (variant, hint), (ms, kept) in figures.items():
            like = next(each for each in entries if (each.variant, each.backend) == (variant, "openvino"))
            agreement = msgspec.structs.replace(like.agreement, share=verify.wilson(kept, 1000), max_abs=0.0)
            latency = (
                None
                if ms is None
                else msgspec.structs.replace(
                    like.latency, p50_ms=ms, session="one" if blocks else "", block_ms=blocks.get((variant, hint), ())
                )
            )
            given = {"hint": hint, "agreement": agreement, "score": scores.get(hint), "latency": latency}
            made.append(msgspec.structs.replace(like, finding=None, machine=where or here, **given))
        asked = msgspec.structs.replace(manifest, budget=Budget(0.5, min_agreement=0.9))
        return offered(asked, Evidence(tuple(made)), here)

    return judge


@pytest.mark.parametrize(
    ("float_ms", "bf16", "int8_ms", "why_not", "hints"),
    [
        (2.0, (1.0, 990), 1.5, "slower than bf16 (1.50 against 1.00 ms)", {"openvino": ("bf16",)}),
        (2.0, (1.0, 990), 0.8, "", {"openvino": ("bf16",)}),
        (2.0, (1.0, 850), 1.5, "", {}),  # a bf16 that breaks the budget is nobody's rival
        (2.0, (None, 990), 1.5, "", {}),  # one that was not timed neither
        (2.0, (3.0, 990), 1.5, "", {}),
        (2.0, (3.0, 990), 2.5, "slower than float32 (2.50 against 2.00 ms)", {}),
        (2.0, (1.0, 990), 2.5, "slower than bf16 (2.50 against 1.00 ms)", {"openvino": ("bf16",)}),
    ],
)
def test_the_rival_is_the_fastest_float_that_keeps_its_budget(judged, float_ms, bf16, int8_ms, why_not, hints):
    figures = {
        ("float32", "float32"): (float_ms, 1000),
        ("float32", "bf16"): bf16,
        ("int8-u8s8", "float32"): (int8_ms, 950),
    }
    offers = judged(figures)
    assert offers.withheld("int8-u8s8") == ({"openvino": why_not} if why_not else {})
    assert offers.backends("int8-u8s8") == (() if why_not else ("openvino",))
    assert offers.backends("float32") == ("openvino",)
    assert offers.hints("float32") == hints


@pytest.mark.parametrize(("drop", "hints"), [(0.1, {"openvino": ("bf16",)}), (5.0, {})])
def test_accuracy_decides_on_bf16_where_there_are_labels(judged, finished, drop, hints):
    with Bundle(finished) as opened:
        score = next(each.score for each in opened.evidence().entries)
    figures = {
        ("float32", "float32"): (2.0, 1000),
        ("float32", "bf16"): (1.0, 1000),
        ("int8-u8s8", "float32"): (1.5, 1000),
    }
    offers = judged(
        figures, {"bf16": msgspec.structs.replace(score, drop=drop, drop_low=drop - 0.2, drop_high=drop + 0.2)}
    )
    assert offers.hints("float32") == hints
    assert ("openvino" in offers.withheld("int8-u8s8")) is bool(hints)


@pytest.mark.parametrize(
    ("int8", "why_not"),
    [
        ([1.0] * 40, "slower than bf16 (1.25 times, 1.21–1.29)"),
        ([0.7] * 40, ""),
        ([0.81] * 40, ""),  # 1 % slower than bf16 is as fast: two processes of one file differ by more
        ([0.6] * 20 + [0.8] * 20, ""),  # how much faster is not told, and not slower
        ([0.7] * 20 + [1.2] * 20, "not told whether it is slower than bf16 (1.15 times"),
    ],
)
def test_what_was_measured_side_by_side_is_judged_by_its_pairs_and_not_by_medians(judged, int8, why_not):
    """The medians, of a phase in which the machine was slow, would say the contrary."""
    blocks = {("float32", "float32"): [2.0] * 40, ("float32", "bf16"): [0.8] * 40, ("int8-u8s8", "float32"): int8}
    figures = {key: (9.0 if key[0] != "float32" and not why_not else 0.5, 1000) for key in blocks}
    offers = judged(figures, blocks=blocks)
    withheld = offers.withheld("int8-u8s8").get("openvino", "")
    assert withheld.startswith(why_not)
    assert bool(withheld) == bool(why_not)
    assert offers.hints("float32") == {"openvino": ("bf16",)}


def test_bf16_of_a_float32_that_differs_is_not_offered(judged):
    """float32 is held to its reference much closer than bf16 to its budget: who fails the one passes not the other."""
    offers = judged({("float32", "float32"): (2.0, 950), ("float32", "bf16"): (1.0, 950)})
    assert "openvino" in offers.withheld("float32")
    assert offers.hints("float32") == {}


def test_what_a_hint_loses_is_not_good_and_no_loss_of_the_bundle(finished):
    with Bundle(finished) as opened:
        manifest, entries = opened.manifest, opened.evidence().entries
    like = next(each for each in entries if each.variant == "float32" and each.agreement)
    assert (is_good(like, manifest), is_faithful(like, manifest)) == (True, True)
    for failed in ("gave NaN", ""):
        share = verify.wilson(1000, 1000) if failed else verify.wilson(100, 1000)
        agreement = msgspec.structs.replace(like.agreement, share=share)
        for hint, faithful in (("bf16", True), ("float32", False)):
            entry = msgspec.structs.replace(like, hint=hint, failed=failed, agreement=agreement, score=None)
            assert (is_good(entry, manifest), is_faithful(entry, manifest)) == (False, faithful)
            assert _verified([like, entry], manifest).startswith("verified here: 1 of 2 give")


def test_a_limit_on_instruction_sets_is_another_machine(judged, monkeypatch):
    """What was judged with everything the processor has is not trusted under ONEDNN_MAX_CPU_ISA, and has no bf16."""
    figures = {("float32", "float32"): (2.0, 1000), ("int8-u8s8", "float32"): (1.0, 1000)}
    everything = machine.this()
    assert judged(figures).backends("int8-u8s8") == ("openvino",)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    machine.this.cache_clear()
    try:
        limited = judged(figures, where=everything)
        assert limited.machine.endswith("at most AVX2")
        assert limited.backends("int8-u8s8") == ()
        assert backends.get("openvino").precisions() == ("float32",)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX3000")  # oneDNN ignores names that it does not know
        machine.this.cache_clear()
        assert "at most" not in machine.this().key
    finally:
        monkeypatch.undo()
        machine.this.cache_clear()


STEPS = ("verify", "bench", "quantize")


@pytest.mark.parametrize("order", [each for count in (3, 4) for each in product(STEPS, repeat=count)], ids="-".join)
def test_what_is_offered_follows_from_what_was_measured_in_any_order_of_the_steps(finished_whole, order):
    """Each step writes what it found, none has to judge again, and a step that is repeated takes nothing away."""
    path, entries, wanted = finished_whole
    evidence = Evidence()
    for step in order:
        left_out = {"verify": {"latency": None}, "bench": {"agreement": None, "score": None, "finding": None}}
        if step != "quantize":  # which finds the same file again, as it does in a second build
            evidence = evidence.merged([msgspec.structs.replace(each, **left_out[step]) for each in entries])
    with Bundle(path) as opened:
        found = offered(opened.manifest, evidence, machine.this())
    if {"verify", "bench"} <= set(order):
        assert found == wanted
    else:
        missing = "verify" if "verify" not in order else "bench"
        assert all(f"edgecv {missing}" in why for why in found.withheld("int8-u8s8").values())


@pytest.fixture(scope="module")
def finished_whole(finished):
    with Bundle(finished) as opened:
        entries = list(opened.evidence().entries)
        return finished, entries, offered(opened.manifest, opened.evidence(), machine.this())
