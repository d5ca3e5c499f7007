"""Whatever the bytes, arrays and names are: a typed error in one line, or an answer. Never another exception.

Backends only ever see files that passed our checks; what they do with those is tried in a process of its own, because a
crash there would be the interpreter's.
"""

import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import edgecv_runtime as rt
from edgecv_runtime import Bundle, onnxfile, onnxgraph, records, verify
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import BadInput, BundleError, EdgecvError, ModelFileError
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.manifest import Manifest

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@st.composite
def mutated(draw, raw):
    """Bytes with a few of them changed, cut, repeated or removed."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "remove", "copy"]))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[max(1, at) :]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


def one_line(error):
    assert "\n" not in str(error)
    assert str(error)


@pytest.fixture(scope="module")
def header_bytes(exported):
    """A whole small model, so that mutations hit structure and not weights."""
    model = onnx.load(exported / "model.onnx")
    for tensor in model.graph.initializer:
        tensor.raw_data = b""
    return model.SerializeToString()


@given(data=st.data())
@FUZZ
def test_mutated_models_give_a_header_or_a_typed_error(header_bytes, data):
    changed = data.draw(mutated(header_bytes))
    try:
        onnxfile.parse(changed, "m.onnx")
    except ModelFileError as exc:
        one_line(exc)
    else:
        onnxgraph.read(changed)
        onnxgraph.exposing(changed, ["x"])


@given(content=st.binary(max_size=300))
@FUZZ
def test_any_bytes_are_no_model(content):
    try:
        onnxfile.parse(content, "m.onnx")
    except ModelFileError as exc:
        one_line(exc)


def test_a_graph_that_is_nested_a_thousand_times_is_refused():
    inner = b""
    for _ in range(3000):
        inner = field(1, field(5, field(6, inner)))
    model = field(7, inner) + field(8, b"\x10\x11") + b"\x08\x08"
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        onnxfile.parse(model, "m.onnx")


def field(number, content):
    from edgecv_runtime.protobuf import encode

    return encode(number, content)


@pytest.mark.parametrize(("kind", "name"), [(Manifest, "bundle.json"), (Evidence, "evidence.json")])
@given(data=st.data())
@FUZZ
def test_mutated_records_give_a_record_or_a_typed_error(finished, kind, name, data):
    raw = (finished / name).read_bytes()
    try:
        records.decode(data.draw(mutated(raw)), kind, name)
    except BadInput as exc:
        one_line(exc)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@FUZZ
def test_a_manifest_with_any_value_anywhere_opens_or_is_one_line(exported, tmp_path_factory, data):
    """Also what checks itself when it is decoded, and what is used to build file names."""
    document = json.loads((exported / "bundle.json").read_text())
    place = document
    for _ in range(data.draw(st.integers(0, 3))):
        keys = [key for key, value in place.items() if isinstance(value, dict)]
        if not keys:
            break
        place = place[data.draw(st.sampled_from(keys))]
    key = data.draw(st.sampled_from([*place, "new"]))
    place[key] = data.draw(JSON)
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("model.onnx", "golden.npz"):
        (folder / name).symlink_to(exported / name)
        (folder / name).unlink()
        (folder / name).hardlink_to(exported / name)
    (folder / "bundle.json").write_text(json.dumps(document))
    try:
        with Bundle(folder) as opened:
            opened.golden()
            rt.loading.of_target(opened, echo(opened)).close()
    except EdgecvError as exc:
        one_line(exc)


def echo(opened):
    from edgecv_runtime.target import targets

    return targets(opened, "echo")[0]


@given(data=st.data())
@FUZZ
def test_mutated_golden_inputs_are_read_or_refused(exported, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    path.write_bytes(data.draw(mutated((exported / "golden.npz").read_bytes())))
    with Bundle(exported) as opened:
        try:
            rt.golden.read(path, opened.manifest, "golden.npz")
        except BundleError as exc:
            one_line(exc)


ANY_ARRAY = arrays.arrays(
    dtype=st.sampled_from(["uint8", "int8", "float16", "float32", "float64", "int64", "bool", "complex64", "U3"]),
    shape=arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)


@given(images=ANY_ARRAY, logits=ANY_ARRAY)
@FUZZ
def test_golden_inputs_of_any_arrays_are_read_or_refused(exported, tmp_path_factory, images, logits):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    np.savez(path, images=images, logits=logits)
    with Bundle(exported) as opened:
        try:
            rt.golden.read(path, opened.manifest, "golden.npz")
        except BundleError as exc:
            one_line(exc)


@given(data=st.data())
@FUZZ
def test_mutated_archives_open_or_are_refused(exported, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    whole = folder / "whole.edgecv"
    with Bundle(exported) as opened:
        small = {"golden.npz": b"g", "model.onnx": b"m"}
        bundles.write(whole, opened.manifest, small)
    path = folder / "changed.edgecv"
    path.write_bytes(data.draw(mutated(whole.read_bytes())))
    try:
        Bundle(path).close()
    except BundleError as exc:
        one_line(exc)


@pytest.fixture(scope="module")
def model(exported):
    with rt.load(exported, backend="onnxruntime") as loaded:
        yield loaded


@given(array=ANY_ARRAY)
@FUZZ
def test_inputs_of_any_dtype_and_shape_are_run_or_refused(model, array):
    for use in (lambda: model(array), lambda: model.run({"image": array}), lambda: model([array])):
        try:
            use()
        except EdgecvError as exc:
            one_line(exc)


FITTING = st.sampled_from([(10,), (11,), (32, 32, 3), (3, 32, 32)]).flatmap(
    lambda shape: st.lists(
        arrays.arrays(st.sampled_from(["uint8", "int64", "float16", "float32", "float64"]), shape),
        min_size=3,
        max_size=3,
    )
)


@given(seen=st.lists(ANY_ARRAY, min_size=2, max_size=4) | FITTING)
@settings(FUZZ, max_examples=60)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_arrays_of_a_device_are_diagnosed_or_refused(exported, seen):
    with Bundle(exported) as opened:
        try:
            verify.against(opened, seen)
        except EdgecvError as exc:
            one_line(exc)


LOAD = """
import sys
from pathlib import Path
import numpy as np
import edgecv_runtime as rt
from edgecv_runtime import Preprocess
given = {"preprocess": Preprocess(size=(32, 32), mode="stretch"), "labels": [f"digit {n}" for n in range(10)]}
frame = np.zeros((40, 40, 3), np.uint8)
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    for backend in ("onnxruntime", "openvino"):
        try:
            with rt.load(path, backend=backend, **given) as model:
                print(path.name, backend, model(frame).label, flush=True)
        except rt.errors.EdgecvError as exc:
            assert "\\n" not in str(exc)
            print(path.name, backend, type(exc).__name__, flush=True)
"""


def test_files_that_pass_the_checks_never_bring_the_interpreter_down(exported, tmp_path):
    """60 damaged models, in a process of their own: each gives a label or a typed error, on each backend."""
    raw = (exported / "model.onnx").read_bytes()
    random = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(raw)
        for _ in range(3):
            data[random.integers(len(data))] = random.integers(256)
        (tmp_path / f"{number:02}.onnx").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-200:]
    assert len(done.stdout.splitlines()) == 120


def test_names_in_an_archive_are_only_plain_ones(tmp_path):
    for name in ("", ".", "..", "a/", "a\0b", "con:", "x" * 300):
        path = tmp_path / "x.edgecv"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name or "/"), b"evil")
        with pytest.raises(BundleError) as caught:
            Bundle(path)
        one_line(caught.value)
