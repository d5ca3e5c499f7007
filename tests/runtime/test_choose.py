import json

import msgspec
import pytest
from evidence_lab import ELSEWHERE, int8, tell

import edgecv_runtime as rt
from edgecv_runtime import bundle as bundles
from edgecv_runtime import choose, files, tuning
from edgecv_runtime.backends.openvino import OpenVinoBackend
from edgecv_runtime.errors import BackendUnavailable, BadInput
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.offers import Offers
from edgecv_runtime.target import Target, targets


def test_auto_takes_the_fastest_of_what_is_offered_and_explains_it(finished_copy, monkeypatch):
    tell(finished_copy, int8({"openvino": "", "onnxruntime": 3.0}))
    monkeypatch.setattr(
        tuning,
        "measure",
        lambda some, _: [each.trial(p50_ms=1.0 if "int8" in each.key else 2.0, frames_per_s=1.0) for each in some],
    )
    with rt.load(finished_copy) as model:
        assert (model.info.variant, model.info.backend) == ("int8-u8s8", "openvino")
        said = model.explain()
    assert "int8-u8s8 on openvino: the best found here for latency" in said
    assert "not int8-u8s8 on onnxruntime: slower than float32 (3.00 against 2.00 ms)" in said
    assert "measured float32 on onnxruntime" in said
    assert "bf16 is used only when asked for" in said or "bf16" not in said


@pytest.mark.parametrize(
    ("ms", "here", "taken"),
    [
        (1.0, True, "float32 on openvino (bf16)"),
        (1.0, False, "float32 on openvino"),  # what was measured elsewhere does not count
        (3.0, True, "float32 on openvino"),
    ],
)
@pytest.mark.parametrize("tune", [False, True])
def test_auto_takes_bf16_where_it_was_found_to_be_faster(finished_copy, monkeypatch, ms, here, taken, tune):
    monkeypatch.setenv("EDGECV_CACHE", str(finished_copy.parent / "cache"))
    verdicts = {("float32", "openvino", "bf16"): ms, **int8({"openvino": 4.0, "onnxruntime": 4.0})}
    tell(finished_copy, verdicts, None if here else ELSEWHERE)
    monkeypatch.setattr(OpenVinoBackend, "precisions", staticmethod(lambda device="": ("float32", "bf16")))
    speed = {"bf16": 1.0, "float32": 2.0}

    def measured(some, _):
        return [each.trial(p50_ms=speed[each.hint] + (each.backend != "openvino"), p99_ms=1.0) for each in some]

    monkeypatch.setattr(tuning, "measure", measured)
    with rt.Bundle(finished_copy) as opened:
        found = choose.for_bundle(opened, choose.Ask(tune=tune))
    assert found.key == taken
    if taken == "float32 on openvino":
        assert any("bf16 is used only when asked for" in each for each in found.reasons)


def test_a_withheld_variant_is_not_run_unless_asked_for_by_name(finished_copy):
    tell(finished_copy, int8({"onnxruntime": "loses 3 points", "openvino": "loses 3 points"}))
    with rt.load(finished_copy) as model:
        assert model.info.variant == "float32"
    with pytest.raises(BadInput, match="loses 3 points"):
        rt.load(finished_copy, precision="int8")
    with rt.load(finished_copy, precision="int8-u8s8", backend="openvino") as model:
        assert model.info.variant == "int8-u8s8"


def test_a_measurement_is_remembered_for_these_files(finished_copy, monkeypatch):
    calls = []
    real = tuning.measure
    monkeypatch.setattr(tuning, "measure", lambda *given: calls.append(1) or real(*given))
    monkeypatch.setenv("EDGECV_CACHE", str(finished_copy.parent / "cache"))
    for _ in range(3):
        rt.load(finished_copy).close()
    assert len(calls) == 1
    (remembered,) = (finished_copy.parent / "cache" / "auto").iterdir()
    assert all(trial["p50_ms"] > 0 for trial in json.loads(remembered.read_bytes())["trials"])
    remembered.write_bytes(b"garbage")
    rt.load(finished_copy).close()
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_costs_only_a_measurement(exported, monkeypatch):
    def fail(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(files, "write", fail)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    with rt.load(exported) as model:
        assert model.info.variant == "float32"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "onnxruntim"}, "no backend 'onnxruntim'; did you mean 'onnxruntime'"),
        ({"precision": "flot32"}, "nothing runs at precision 'flot32' .* did you mean 'float32'"),
        ({"precision": "int8"}, "nothing runs at precision 'int8'"),
        ({"precision": "bf16", "backend": "onnxruntime"}, "nothing runs at precision 'bf16' on backend 'onnxruntime'"),
        ({"threads": -1, "backend": "onnxruntime"}, "threads must be at least 0"),
    ],
)
def test_what_cannot_run_is_said_with_what_can(exported, given, said):
    with pytest.raises(BadInput, match=said):
        rt.load(exported, **given)


def test_without_any_backend_the_cure_is_named(exported, monkeypatch):
    monkeypatch.setattr(choose.backends, "available", dict)
    with pytest.raises(BackendUnavailable, match=r"pip install .*\[onnxruntime\]"):
        rt.load(exported)


def test_a_backend_that_is_not_installed_names_its_cure(exported, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *rest):
        if name.split(".")[0] == "openvino":
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendUnavailable, match=r"'openvino' is not installed: .*pip install .*\[openvino\]"):
        rt.load(exported, backend="openvino")


def test_the_echo_backend_answers_without_a_runtime(exported, photos):
    with rt.load(exported, backend="echo") as model:
        assert model(photos[0]).index == model(photos[0]).index
        assert len(model([photos[0]] * 3)) == 3


def test_int8_that_was_judged_on_another_machine_waits_for_this_one(finished_copy):
    tell(finished_copy, int8({"onnxruntime": "", "openvino": ""}), ELSEWHERE)
    with rt.load(finished_copy) as model:
        assert model.info.variant == "float32"
        assert "not judged on this machine; run 'edgecv verify' and 'edgecv bench'" in model.explain()


def test_what_another_machine_withheld_is_refused_with_where_and_the_cure(finished_copy):
    tell(finished_copy, int8({"onnxruntime": 3.0, "openvino": 3.0}), ELSEWHERE)
    where = r"judged on Some Jetson, 6 cores; run 'edgecv verify' and 'edgecv bench' here"
    cure = rf"slower than float32 \(3.00 against 2.00 ms\) \({where}\)"
    with pytest.raises(BadInput, match=cure):
        rt.load(finished_copy, precision="int8")


@pytest.mark.parametrize("left_out", ["latency", "agreement"])
def test_what_another_machine_did_not_measure_is_no_verdict(finished_copy, left_out):
    tell(finished_copy, int8({"onnxruntime": "", "openvino": ""}), ELSEWHERE)
    with rt.Bundle(finished_copy) as opened:
        entries = [msgspec.structs.replace(each, **{left_out: None}) for each in opened.evidence().entries]
        bundles.update(opened, evidence=Evidence(tuple(entries)))
    with rt.load(finished_copy, precision="int8", backend="onnxruntime") as model:
        assert model.info.variant == "int8-u8s8"


def test_a_measurement_is_not_taken_for_another_precision_of_the_islands(finished_copy, monkeypatch):
    """The same file runs differently where what is not quantized is in bf16."""
    calls = []
    monkeypatch.setattr(
        tuning,
        "measure",
        lambda some, _: calls.append(1) or [each.trial(p50_ms=1.0, frames_per_s=1.0) for each in some],
    )
    monkeypatch.setattr(OpenVinoBackend, "precisions", staticmethod(lambda *_: ("float32", "bf16")))
    monkeypatch.setenv("EDGECV_CACHE", str(finished_copy.parent / "cache"))
    for islands in ("float32", "float32", "bf16"):
        tell(finished_copy, int8({"openvino": ""}))
        with rt.Bundle(finished_copy) as opened:
            variants = tuple(
                msgspec.structs.replace(each, islands=islands) if each.precision == "int8" else each
                for each in opened.manifest.variants
            )
            bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, variants=variants))
        with rt.Bundle(finished_copy) as opened:
            choose.for_bundle(opened, choose.Ask())
    assert len(calls) == 2


def test_float32_that_differs_from_pytorch_is_not_run(finished_copy):
    wrong = {"onnxruntime": "differs from PyTorch", "openvino": "differs from PyTorch"}
    tell(finished_copy, {("float32", name, "float32"): why for name, why in wrong.items()} | int8(wrong))
    for precision in ("auto", "float32"):
        with pytest.raises(BadInput, match="differs from PyTorch"):
            rt.load(finished_copy, precision=precision)


DAMAGES = {
    "garbage": lambda whole: b"garbage",
    "empty": lambda whole: b"",
    "other": lambda whole: b'{"a": 1}',
    "half": lambda whole: whole[: len(whole) // 2],
    "not text": lambda whole: whole.replace(b"float32", b"fl\xff\xfet32"),
    "deep": lambda whole: b"[" * 100_000,
    "no batch": lambda whole: whole.replace(b'"batch":1', b'"batch":0'),
    "no stream": lambda whole: whole.replace(b'"streams":1', b'"streams":0'),
    "threads": lambda whole: whole.replace(b'"threads":0', b'"threads":-1'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_useless_memory_is_measured_anew(exported, monkeypatch, tmp_path, damage):
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    rt.load(exported).close()
    (remembered,) = (tmp_path / "auto").iterdir()
    damaged = damage(remembered.read_bytes())
    remembered.write_bytes(damaged)
    rt.load(exported).close()
    assert remembered.read_bytes() != damaged
    assert len(json.loads(remembered.read_bytes())["trials"]) >= 2


def test_a_cache_folder_that_cannot_be_made_does_not_matter(exported, monkeypatch):
    monkeypatch.setenv("EDGECV_CACHE", "/proc/nowhere")
    with rt.load(exported) as model:
        assert model.info.variant == "float32"


def with_two_dialects(path, offered):
    """A second int8 variant, and where each is offered."""
    with rt.Bundle(path) as opened:
        first = opened.manifest.variant("int8-u8s8")
        second = msgspec.structs.replace(first, name="int8-s8s8", file="model.int8-s8s8.onnx")
        variants = (opened.manifest.variant("float32"), first, second)
        manifest = msgspec.structs.replace(opened.manifest, variants=variants)
        content = {second.file: opened.variant_file("int8-u8s8").read_bytes()}
        bundles.update(opened, manifest=manifest, content=content)
    tell(path, {(name, backend, "float32"): "" for name in offered for backend in offered[name]})


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ({"int8-u8s8": (), "int8-s8s8": ()}, "int8-u8s8"),  # not verified: what the backend is made for
        ({"int8-u8s8": (), "int8-s8s8": ("openvino",)}, "int8-s8s8"),
        ({"int8-u8s8": ("openvino",), "int8-s8s8": ("onnxruntime",)}, "int8-u8s8"),
    ],
)
def test_int8_takes_the_dialect_that_was_verified_on_the_backend(finished_copy, offered, taken):
    with_two_dialects(finished_copy, offered)
    with rt.load(finished_copy, precision="int8", backend="openvino") as model:
        assert model.info.variant == taken


@pytest.mark.parametrize(
    ("here", "verified", "taken"),
    [
        (("int8-u8s8", "int8-s8s8", "int8-s8s8-fp16"), (), "int8-s8s8-fp16"),
        (("int8-u8s8", "int8-s8s8"), (), "int8-s8s8"),
        (("int8-u8s8", "int8-s8s8", "int8-s8s8-fp16"), ("int8-s8s8",), "int8-s8s8"),
        (("int8-u8s8", "int8-s8s8", "int8-s8s8-fp16"), ("int8-u8s8", "int8-s8s8-fp16"), "int8-s8s8-fp16"),
    ],
)
def test_tensorrt_takes_half_precision_between_int8_until_another_was_verified(finished, here, verified, taken):
    offers = Offers("this", {(name, "tensorrt", "float32"): "" for name in verified})
    usable = [Target(name, finished / "model.onnx", "", "tensorrt", "float32") for name in here]
    assert [each.variant for each in choose._one_dialect(usable, lambda _: offers)] == [taken]


def test_islands_run_in_their_own_precision_where_the_backend_has_it(finished_copy, monkeypatch):
    from edgecv_runtime import backends

    with rt.Bundle(finished_copy) as opened:
        variants = tuple(
            msgspec.structs.replace(each, islands="bf16") if each.precision == "int8" else each
            for each in opened.manifest.variants
        )
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, variants=variants))
    monkeypatch.setattr(backends.get("openvino"), "precisions", staticmethod(lambda device: ("float32", "bf16")))
    with rt.Bundle(finished_copy) as opened:
        found = {(each.variant, each.backend, each.hint): each.islands for each in targets(opened)}
    assert found["int8-u8s8", "openvino", "float32"] == "bf16"
    assert found["int8-u8s8", "onnxruntime", "float32"] == "float32"
