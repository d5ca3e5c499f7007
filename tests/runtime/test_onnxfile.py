import tracemalloc

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgecv_runtime import onnxfile, onnxgraph, protobuf
from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.onnxending import Ending


def make_model(opset=17, ir_version=8, domain=""):
    nodes = [helper.make_node("Relu" if not domain else "Strange", ["x"], ["y"], domain=domain)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets)
    model.ir_version = ir_version
    helper.set_model_props(model, {"edgecv.name": "naïve"})
    return model


def test_the_header_is_what_the_onnx_package_reads(exported):
    """Oracle: the onnx package."""
    path = exported / "model.onnx"
    model, header = onnx.load(path), onnxfile.read(path)
    assert header.ir_version == model.ir_version
    assert header.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert sum(header.operators.values()) == len(model.graph.node)
    assert [spec.name for spec in header.inputs] == ["image"]
    assert header.inputs[0].shape == ("batch", 32, 32, 3)
    assert (header.inputs[0].dtype, header.outputs[0].dtype) == ("uint8", "float32")
    assert header.endings["logits"].operator == "Gemm"


def test_metadata_may_hold_any_text(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(make_model(), path)
    assert onnxfile.read(path).metadata == {"edgecv.name": "naïve"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n  <html>", "an HTML page"),
        (b"<?xml version='1.0'?><net name='m'>", "a model of OpenVINO"),
        (b'<net name="m" version="11">', "a model of OpenVINO"),
        (b"vtrt\0\0\0\0", "a TensorRT-RTX engine"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x93NUMPY\x01\0", "a numpy array"),
        (b"\x7fELF\x02", "a Linux program or library"),
        (b"%PDF-1.7", "a PDF document"),
        (safetensors.numpy.save({"w": np.zeros(3, np.float32)}), "safetensors, weights without a graph"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer: run 'git lfs pull'"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b'{"a": 1}', "a JSON document"),
        (b"hello world, this is no model", "not a whole ONNX file"),
    ],
)
def test_other_kinds_of_files_are_named(content, said, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=said) as caught:
        onnxfile.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.onnx: cannot be read: No such file"):
        onnxfile.read(tmp_path / "none.onnx")


def test_weights_are_not_read_into_memory(tmp_path):
    """A device with 512 MB looks at the outside of a model of 300 MB without holding it twice."""
    model, weights = make_model(), np.ones((4 << 20,), np.float32)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), True))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    tracemalloc.start()
    try:
        header = onnxfile.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [spec.name for spec in header.inputs] == ["x"]
    assert peak < path.stat().st_size / 16


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, exported, tmp_path):
    whole = (exported / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        onnxfile.read(path)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make_model(opset=99), "opset 99 is outside"),
        (make_model(opset=3), "opset 3 is outside"),
        (make_model(ir_version=99), "IR version 99 is outside"),
        (make_model(domain="acme.secret"), r"custom operators of acme\.secret \(Strange\); export"),
    ],
)
def test_versions_and_operators_out_of_range_are_refused(model, said, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=said):
        onnxfile.read(path)


@pytest.mark.parametrize(
    ("location", "said"),
    [("/etc/passwd", "outside"), ("../secret.bin", "outside"), ("none.bin", "is missing"), ("link.bin", "is a link")],
)
def test_external_data_stays_in_the_folder(location, said, tmp_path):
    model = make_model()
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=said):
        onnxfile.read(folder / "model.onnx")


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.floats(0, 1))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_give_a_header_or_a_typed_error(exported, position, value, cut):
    data = bytearray((exported / "model.onnx").read_bytes())
    data[int(position * len(data))] = value
    try:
        onnxfile.parse(bytes(data[: max(1, int(cut * len(data)))]), "m.onnx")
    except ModelFileError as exc:
        assert "\n" not in str(exc)


def test_external_data_hidden_in_an_attribute_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    model = make_model()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside"):
        onnxfile.read(path)


def with_external(tmp_path, size, **entries):
    model = make_model()
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(bytes(size))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "model.onnx"


def test_external_data_that_is_cut_short_is_refused(tmp_path):
    path = with_external(tmp_path, 16, offset="8", length="8")
    assert onnxfile.read(path).external == {"w.bin": 16}
    (tmp_path / "w.bin").write_bytes(bytes(15))
    with pytest.raises(ModelFileError, match=r"'w\.bin' has 15 bytes, the model wants 16: it is truncated"):
        onnxfile.read(path)


@pytest.mark.parametrize("location", ["C:/secret.bin", "C:secret.bin", "a\0b"])
def test_external_data_of_odd_names_is_refused(location, tmp_path):
    with pytest.raises(ModelFileError, match="outside|missing"):
        onnxfile.read(with_external(tmp_path, 8, location=location))


def test_external_data_of_a_second_graph_or_a_sparse_constant_is_seen(tmp_path):
    """Protocol Buffers merge a message that is given twice, so a second graph would hide what the first one names."""
    model = make_model()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString() + protobuf.encode(7, b""))
    with pytest.raises(ModelFileError, match="it has two graphs"):
        onnxfile.read(path)
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.name = "w"
    sparse.values.data_location = TensorProto.EXTERNAL
    sparse.values.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside"):
        onnxfile.read(path)


def test_a_custom_operator_inside_a_branch_is_refused(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Strange", [], ["z"], domain="acme.secret")],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    model = make_model()
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"custom operators of acme\.secret \(Strange\)"):
        onnxfile.read(path)


@pytest.mark.parametrize("tail", [["Identity"], ["Identity", "Identity"], ["Cast", "Flatten"]])
def test_the_last_operator_is_seen_through_those_that_pass_values_on(tail, tmp_path):
    nodes, name = [helper.make_node("Softmax", ["x"], ["s"])], "s"
    for number, kind in enumerate(tail):
        last = number == len(tail) - 1
        given = {"to": TensorProto.FLOAT} if kind == "Cast" else {}
        nodes.append(helper.make_node(kind, [name], ["y" if last else f"t{number}"], **given))
        name = f"t{number}"
    model = make_model()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert onnxfile.read(path).endings == {"y": Ending("Softmax")}


def test_constants_have_one_digest_however_they_are_stored():
    """Oracle: the onnx package writes the same values as raw bytes and as typed fields."""
    for values in (np.arange(6, dtype=np.float32), np.arange(-3, 3, dtype=np.int8), np.arange(-3, 3)):
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        digests = set()
        for tensor in (
            onnx.numpy_helper.from_array(values, "w"),
            helper.make_tensor("w", kind, [6], values.tolist()),
        ):
            model = make_model()
            model.graph.initializer.append(tensor)
            digests.add(onnxgraph.read(model.SerializeToString()).constants["w"])
        assert len(digests) == 1


def test_a_graph_shows_its_inside_and_takes_floats(exported):
    """Oracle: the onnx package reads the copies."""
    raw = (exported / "model.onnx").read_bytes()
    model = onnx.load(exported / "model.onnx")
    graph = onnxgraph.read(raw)
    assert [(node.name, node.operator, list(node.inputs)) for node in graph.nodes] == [
        (node.name, node.op_type, list(node.input)) for node in model.graph.node
    ]
    names = [node.outputs[0] for node in graph.nodes[:-1]]
    shown = onnx.load_from_string(onnxgraph.exposing(raw, names))
    assert [output.name for output in shown.graph.output] == ["logits", *names]
    floats = onnx.load_from_string(onnxgraph.with_float_input(raw))
    onnx.checker.check_model(floats, full_check=True)
    assert floats.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert floats.graph.input[0].type.tensor_type.shape == model.graph.input[0].type.tensor_type.shape
    assert floats.graph.node == model.graph.node
