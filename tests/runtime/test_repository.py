"""Model repositories: what Triton's own definition of a configuration reads, and files that run as in the bundle."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv.cli.app import app
from edgecv_runtime import bundle as bundles
from edgecv_runtime import repository
from edgecv_runtime.errors import BadInput, BundleError
from edgecv_runtime.preprocess import Preprocess


def run(*words):
    return CliRunner().invoke(app, ["export-repository", *map(str, words)])


def test_triton_reads_its_configuration_and_the_file_runs(finished, tmp_path):
    done = run(finished, "--triton", tmp_path / "models", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    with rt.Bundle(finished) as bundle:
        manifest, golden = bundle.manifest, bundle.golden()
        assert [each["model"] for each in written] == [f"{manifest.name}-{each.name}" for each in manifest.variants]
        for each in written:
            folder = tmp_path / "models" / each["model"]
            config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
            assert (config.name, config.backend, config.max_batch_size) == (each["model"], "onnxruntime", 0)
            assert bundle.sha256(each["variant"]) in config.parameters["edgecv.content"].string_value
            session = onnxruntime.InferenceSession(str(folder / "1" / config.default_model_filename))
            kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
            for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
                assert [
                    (tensor.name, model_config_pb2.DataType.Name(tensor.data_type), list(tensor.dims))
                    for tensor in ours
                ] == [
                    (node.name, kinds[node.type], [size if isinstance(size, int) else -1 for size in node.shape])
                    for node in theirs
                ]
            outputs = session.run(None, {config.input[0].name: golden.images})
            if each["variant"] == "float32":
                assert np.allclose(outputs[0], golden.outputs[config.output[0].name], atol=1e-4)


def test_openvino_model_server_finds_the_files(finished, tmp_path):
    with rt.Bundle(finished) as bundle:
        (name, *_) = [each.name for each in bundle.manifest.variants if each.precision == "int8"]
    done = run(finished, "--ovms", tmp_path / "models", "--variant", name, "--mounted", "/srv/m/")
    assert done.exit_code == 0, done.output
    (config,) = json.loads((tmp_path / "models" / "config.json").read_text())["model_config_list"]
    assert config["config"]["base_path"] == f"/srv/m/tiny-{name}"
    assert config["config"]["plugin_config"] == {"INFERENCE_PRECISION_HINT": "f32"}
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["README.md", "config.json", f"tiny-{name}"]
    onnx.checker.check_model(str(tmp_path / "models" / f"tiny-{name}" / "1" / "model.onnx"))


def test_the_note_says_what_the_server_does_not_do(finished, tmp_path):
    assert run(finished, "--triton", tmp_path / "models").exit_code == 0
    note = (tmp_path / "models" / "README.md").read_text()
    assert "Scale it to 32 rows of 32 pixels, whatever its shape, linear" in note
    assert "`image`, UINT8 [-1, 32, 32, 3]" in note
    record = json.loads(re.search(r"```json\n(.*)```", note, re.DOTALL)[1])
    assert record["labels"] == [f"digit {number}" for number in range(10)]
    assert record["task"] == "classification"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Preprocess((224, 224)), ["shorter side has 256 pixels", "central 224 rows of 224 pixels", "red, green, blue"]),
        (Preprocess((64, 128), interpolation="cubic"), ["shape 64:128", "64 of 73", "INTER_CUBIC"]),
        (Preprocess((96, 64), "letterbox", color="BGR", fill=7), ["fits into 96 rows of 64", "grey, 7", "blue, green"]),
        (Preprocess((8, 8), "stretch", interpolation="pyramid", color="GRAY"), ["averaging 2x2", "one, grey"]),
    ],
)
def test_every_way_has_words(asked, said):
    words = " ".join(repository.in_words(asked))
    assert [each for each in said if each not in words] == []


def test_names_are_quoted_as_protobuf_wants(finished, tmp_path):
    name = 'a "b"\\ \u00e4'
    with rt.Bundle(finished) as bundle:
        import msgspec

        bundles.write(tmp_path / "b", msgspec.structs.replace(bundle.manifest, name=name), bundle.content())
    with rt.Bundle(tmp_path / "b") as bundle:
        (kept, *_) = repository.write(bundle, tmp_path / "models", "triton", ["float32"])
    text = (tmp_path / "models" / kept.name / "config.pbtxt").read_text()
    assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == f"{name}-float32" == kept.name


def test_what_cannot_be_written_leaves_nothing(finished, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with rt.Bundle(finished) as bundle:
        with pytest.raises(BadInput, match="is there already, and not empty"):
            repository.write(bundle, tmp_path / "full", "triton")
        with pytest.raises(BundleError, match="no variant 'int7'; it has: float32, "):
            repository.write(bundle, tmp_path / "new", "triton", ["int7"])
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert "name the server and a new folder" in run(finished).output
    assert run(finished, "--triton", tmp_path / "a", "--ovms", tmp_path / "a").exit_code == 2
