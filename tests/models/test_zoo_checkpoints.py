"""A checkpoint file loads as it is, whatever wraps it, or is refused in one line that says why."""

import argparse
import collections
import pathlib
import pickle
import tarfile
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
import zoo_reference
from safetensors.torch import save_file
from torch import nn

from edgecv import models
from edgecv.models.checkpoint import adapt_stem
from edgecv_runtime.errors import BadInput, ModelFileError

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def state():
    """Weights of a network with five classes."""
    return models.create(NAME, classes=5, seed=1).state_dict()


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def shifted(state):
    return {key: value + 1 for key, value in state.items()}


def saved(content, path):
    torch.save(content, path)
    return path


def refusal(path, error=BadInput, **options):
    """The one line with which a file is refused."""
    with pytest.raises(error) as caught:
        models.create(NAME, **{"classes": 5, "weights": path, **options})
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class Settings(dict):
    """As yacs' CfgNode and EasyDict."""

    def with_attribute(self):
        self.frozen = True
        return self


class Steps(list):
    """As ListConfig."""


WRAPPERS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": lambda s: {"model": s, "args": None},
    "data parallel": lambda s: prefixed("module.", s),
    "compiled, in Lightning": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "compiled and parallel within": lambda s: {
        key.replace("features.", "features._orig_mod.").replace("classifier.", "classifier.module."): value
        for key, value in s.items()
    },
    "torch's AveragedModel": lambda s: {"ema": {"n_averaged": torch.tensor(9), **prefixed("module.", s)}},
    "any name": lambda s: prefixed("my.very_own.Net.", s),
    "dictionaries of modules": lambda s: {
        part: {key.partition(".")[2]: value for key, value in s.items() if key.startswith(f"{part}.")}
        for part in ("features", "classifier")
    },
    "the same twice": lambda s: {"model": s, "ema": dict(s)},
    "beside a loss, metrics and an optimizer": lambda s: {
        "state_dict": {
            **prefixed("net.", s),
            "criterion.weight": torch.ones(5),
            "val_acc.confmat": torch.zeros(5, 5),
        },
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "exp_avg": torch.ones(3)},
        "best": torch.tensor(0.5),
    },
    "beside a loss, metrics and an optimizer, without a prefix": lambda s: {
        **s,
        "criterion.weight": torch.ones(5),
        "train_metrics.MulticlassAccuracy.tp": torch.zeros(5, dtype=torch.long),
        "n_averaged": torch.tensor(9),
        "epoch": 3,
        "optimizer": {"exp_avg": torch.ones(3)},
    },
    "beside a larger teacher": lambda s: {
        **prefixed("student.", s),
        **prefixed("teacher.", models.create(NAME.replace("small", "large"), classes=5).state_dict()),
    },
    "objects that nobody knows": lambda s: {
        "model": s,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "path": pathlib.PurePosixPath("a"),
        "metric": Fraction(1, 3),
    },
    "dictionaries and lists of other kinds": lambda s: {
        "state_dict": Settings(s),
        "args": Settings(lr=0.1, more=Settings(steps=Steps([1, 2]))).with_attribute(),
        "metrics": collections.defaultdict(list, top1=[0.5]),
        "best": Steps([np.float64(0.5)]),
    },
    "without counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_loads_whatever_wraps_it(wrap, state, tmp_path):
    path = saved(wrap(state), tmp_path / "w.pth")
    network = models.create(NAME, classes=5, weights=path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.named_parameters())


@pytest.mark.parametrize(
    ("second", "place"), [("ema", "ema"), ("module", "module"), ("state_dict_ema", "state_dict_ema.module")]
)
def test_two_copies_are_a_choice(second, place, state, tmp_path):
    average = prefixed("module.", shifted(state)) if place.endswith(".module") else shifted(state)
    path = saved({"model": state, second: average}, tmp_path / "last.ckpt")
    message = refusal(path)
    assert "2 different copies" in message
    assert f"'{path}#model', '{path}#{place}'" in message
    raw, averaged = (models.create(NAME, classes=5, weights=f"{path}#{name}") for name in ("model", second))
    assert all(torch.equal(tensor, state[key]) for key, tensor in raw.named_parameters())
    assert all(torch.equal(tensor, state[key] + 1) for key, tensor in averaged.named_parameters())
    with pytest.raises(BadInput, match=r"no weights of mobilenet_v3_small under 'teacher'; there are: .*#model"):
        models.create(NAME, classes=5, weights=f"{path}#teacher")


def test_a_copy_without_a_prefix_can_be_named(state, tmp_path):
    path = saved({**state, **prefixed("ema.", shifted(state))}, tmp_path / "last.ckpt")
    assert f"'{path}#', '{path}#ema'" in refusal(path)
    for place, moved in (("", 0), ("ema", 1)):
        network = models.create(NAME, classes=5, weights=f"{path}#{place}")
        assert all(torch.equal(tensor, state[key] + moved) for key, tensor in network.named_parameters())


def test_what_lies_beside_is_told(state, tmp_path):
    beside = {"loss.weight": torch.ones(2)}
    path = saved({"state_dict": {**prefixed("model.", state), **beside}}, tmp_path / "w.ckpt")
    report = models.load_weights(models.create(NAME, classes=5), path)
    assert (report.entry, report.left_out) == ("state_dict.model", ("state_dict.loss.weight",))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.ckpt", "w.pth.tar", "pytorch_model.bin", "w.safetensors", "w.weights", "w"])
def test_the_content_says_what_a_file_is(legacy, name, state, tmp_path):
    path = tmp_path / name
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    other = tmp_path / f"other.{name}"
    save_file(state, other)
    for each in (path, other):
        network = models.create(NAME, classes=5, weights=str(each))
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.named_parameters())


def test_names_that_differ_by_a_prefix_are_never_another_model(state, tmp_path):
    backbone = {key: value for key, value in state.items() if key.startswith("features.")}
    message = refusal(saved(prefixed("model.backbone.", backbone), tmp_path / "w.pth"))
    assert "(model.backbone) does not fit" in message
    assert "4 missing" in message
    assert "only the head differs: classifier" in message
    inner = {key.removeprefix("features."): value for key, value in backbone.items()}
    message = refusal(saved(inner, tmp_path / "inner.pth"))
    assert "names of its 'features' alone" in message
    assert "no name in common" not in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_report_tells_what_was_loaded(suffix, state, tmp_path):
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path)
    report = models.load_weights(models.create(NAME, classes=5), path)
    assert report.path == str(path)
    assert len(report.sha256) == 64
    assert report.entry == ("" if suffix == ".safetensors" else "model")
    assert report.tensors == len(state) == 244
    assert (report.classes, report.checkpoint_classes, report.head_replaced) == (5, 5, False)
    assert (report.in_channels, report.checkpoint_channels, report.stem_adapted) == (3, 3, False)


def test_half_precision_loads_as_float32(state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    network = models.create(NAME, classes=5, weights=str(path))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_another_number_of_classes_replaces_the_head_and_warns(state, tmp_path, caplog):
    path = saved(state, tmp_path / "w.pth")
    network = models.create(NAME, classes=9, seed=3)
    fresh = network.classifier[3].weight.clone()
    report = models.load_weights(network, path)
    assert (report.classes, report.checkpoint_classes, report.head_replaced) == (9, 5, True)
    assert report.tensors == len(state) - 2
    assert torch.equal(network.classifier[3].weight, fresh)
    assert torch.equal(network.classifier[0].weight, state["classifier.0.weight"])
    ours = [record for record in caplog.records if record.name.startswith("edgecv")]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert f"{path} has 5 classes, the model 9: the head is new and untrained" in caplog.text


def test_another_number_of_channels_adapts_the_stem_and_warns(state, tmp_path, caplog):
    path = saved(state, tmp_path / "w.pth")
    network = models.create(NAME, classes=5, in_channels=4)
    report = models.load_weights(network, path)
    assert (report.in_channels, report.checkpoint_channels, report.stem_adapted) == (4, 3, True)
    assert "has a stem for 3 channels, the model for 4" in caplog.text
    kernels = state["features.0.0.weight"]
    torch.testing.assert_close(network.features[0][0].weight[:, 3], kernels[:, 0] * 0.75)


def test_adapted_stem_answers_a_grey_picture_as_before():
    kernels, grey = torch.randn(8, 3, 3, 3), torch.randn(1, 1, 9, 9)
    before = nn.functional.conv2d(grey.repeat(1, 3, 1, 1), kernels)
    torch.testing.assert_close(nn.functional.conv2d(grey, adapt_stem(kernels, 1)), before)
    even = adapt_stem(kernels, 6)
    torch.testing.assert_close(nn.functional.conv2d(grey.repeat(1, 6, 1, 1), even), before)


def test_weights_for_one_channel_load_into_one_channel(tmp_path):
    grey = models.create(NAME, classes=5, in_channels=1).state_dict()
    path = saved(grey, tmp_path / "w.pth")
    network = models.create(NAME, classes=5, in_channels=1, weights=path)
    assert torch.equal(network.features[0][0].weight, grey["features.0.0.weight"])
    assert "features.0.0.weight: file (16, 1, 3, 3), model (16, 3, 3, 3)" in refusal(path)


def test_the_first_layer_of_the_perceptron_is_adapted_channel_by_channel(tmp_path):
    rgb = models.create("mlp", classes=5)
    path = saved(rgb.state_dict(), tmp_path / "w.pth")
    grey = models.create("mlp", classes=5, in_channels=1)
    report = models.load_weights(grey, path)
    assert (report.in_channels, report.checkpoint_channels, report.stem_adapted) == (1, 3, True)
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(grey(x), rgb(x.repeat(1, 3, 1, 1)))


def test_names_of_older_torchvision_are_understood(tmp_path):
    state = models.create("vit_tiny", classes=5).state_dict()
    older = {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for k, v in state.items()}
    assert older.keys() != state.keys()
    network = models.create("vit_tiny", classes=5, weights=saved(older, tmp_path / "w.pth"))
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


def test_names_of_timm_are_understood(tmp_path):
    shapes = zoo_reference.published_state_dicts()["vit_tiny by timm"]
    theirs = {key: torch.randn(shape) for key, shape in shapes.items()}
    network = models.create("vit_tiny", weights=saved(theirs, tmp_path / "w.pth"))
    assert torch.equal(network.class_token, theirs["cls_token"])
    block = network.encoder.layers.encoder_layer_11
    assert torch.equal(block.self_attention.in_proj_bias, theirs["blocks.11.attn.qkv.bias"])
    assert torch.equal(block.mlp[3].weight, theirs["blocks.11.mlp.fc2.weight"])
    assert torch.equal(network.encoder.ln.bias, theirs["norm.bias"])


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("mobilenet_v1", "blocks.3.5.conv_pw.weight", "features.11.1.0.weight"),
        ("convnext_atto", "stages.3.blocks.1.mlp.fc1.bias", "features.7.1.block.3.bias"),
    ],
)
def test_files_of_timm_in_the_same_order_are_understood(name, theirs, ours, tmp_path):
    shapes = zoo_reference.published_state_dicts()[name]
    state = {key: torch.randn(shape) if shape else torch.tensor(1) for key, shape in shapes.items()}
    network = models.create(name, classes=1000, weights=saved({"state_dict": state}, tmp_path / "w.pth"))
    assert torch.equal(network.state_dict()[ours].flatten(), state[theirs].flatten())
    small = models.create(name, classes=7)
    assert models.load_weights(small, tmp_path / "w.pth").head_replaced


HEADS = {
    "googlenet": ("fc", "aux1.fc2", "aux2.fc2"),
    "deeplabv3_mobilenet_v3_large": ("classifier.4", "aux_classifier.4"),
    "lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
}


@pytest.mark.parametrize("name", HEADS)
def test_another_number_of_classes_replaces_every_head(name, tmp_path, caplog):
    state = models.create(name, classes=5, seed=1).state_dict()
    path = saved(state, tmp_path / "w.pth")
    network = models.create(name, classes=9, seed=2)
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    report = models.load_weights(network, path)
    assert (report.head_replaced, report.auxiliary_missing) == (True, False)
    assert report.tensors == len(state) - 2 * len(HEADS[name])
    for key, value in network.state_dict().items():
        assert torch.equal(value, (fresh if key.rsplit(".", 1)[0] in HEADS[name] else state)[key])
    assert "has 5 classes, the model 9" in caplog.text


@pytest.mark.parametrize("name", ["googlenet", "deeplabv3_mobilenet_v3_large"])
def test_a_file_without_auxiliary_heads_leaves_them_untrained_and_says_so(name, tmp_path, caplog):
    whole = models.create(name, classes=5, seed=1)
    state = {k: v for k, v in whole.state_dict().items() if k.split(".")[0] not in whole.auxiliary}
    path = saved(state, tmp_path / "w.pth")
    network = models.create(name, classes=5, seed=2)
    report = models.load_weights(network, path)
    assert (report.head_replaced, report.auxiliary_missing, report.tensors) == (False, True, len(state))
    assert f"{path} lacks the auxiliary heads" in caplog.text
    first = "aux1.conv.conv.weight" if name == "googlenet" else "aux_classifier.0.weight"
    half = saved({**state, first: whole.state_dict()[first]}, tmp_path / "half.pth")
    with pytest.raises(BadInput, match=r"missing \(aux"):
        models.load_weights(network, half)


def test_a_file_that_lacks_one_of_two_heads_says_that_only_the_heads_differ(tmp_path):
    state = models.create("deeplabv3_mobilenet_v3_large", classes=5).state_dict()
    path = saved(without(state, "classifier.4.bias", "aux_classifier.4.bias"), tmp_path / "w.pth")
    with pytest.raises(BadInput, match=r"2 missing .*; only the heads differ: classifier, aux_classifier"):
        models.create("deeplabv3_mobilenet_v3_large", classes=5, weights=path)


def test_three_channels_of_a_signal_are_no_colours(tmp_path):
    path = saved(models.create("wavenet_tiny", in_channels=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(BadInput, match=r"stem.weight: file \(32, 3, 2\), model \(32, 1, 2\)"):
        models.create("wavenet_tiny", weights=path)


@pytest.mark.parametrize("name", HEADS)
def test_pickled_code_is_refused_for_networks_with_several_heads_too(name, tmp_path, capsys):
    path = saved({"state_dict": Exploit()}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="pickled Python objects"):
        models.create(name, weights=path)
    assert "must never run" not in capsys.readouterr().out


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


MISFITS = {
    "missing": (
        lambda s: without(s, "features.0.0.weight", "features.0.1.bias"),
        "does not fit mobilenet_v3_small: 2 missing (features.0.0.weight, features.0.1.bias)",
    ),
    "unexpected": (lambda s: {**s, "extra": torch.ones(1)}, "1 unexpected (extra)"),
    "shape": (
        lambda s: {**s, "features.0.1.bias": torch.ones(7)},
        "1 of another shape (features.0.1.bias: file (7), model (16))",
    ),
    "integers": (
        lambda s: {**s, "features.0.1.bias": torch.ones(16, dtype=torch.int8)},
        "features.0.1.bias: file (16) int8, model (16)",
    ),
    "no head": (
        lambda s: without(s, "classifier.3.weight", "classifier.3.bias"),
        "2 missing (classifier.3.weight, classifier.3.bias); only the head differs: classifier",
    ),
    "other names": (
        lambda s: {f"layer{i}": v for i, v in enumerate(s.values())},
        "244 unexpected (layer0, layer1, layer2, …); no name in common",
    ),
    "NaN": (
        lambda s: {**s, "features.0.1.bias": torch.full((16,), float("nan"))},
        "'features.0.1.bias' holds NaN",
    ),
}


@pytest.mark.parametrize(("change", "expected"), MISFITS.values(), ids=MISFITS)
def test_a_file_that_does_not_fit_says_where(change, expected, state, tmp_path):
    assert expected in refusal(saved(change(state), tmp_path / "w.pth"))


def test_another_model_does_not_fit(tmp_path):
    path = saved(models.create("mobilenet_v3_large", classes=5).state_dict(), tmp_path / "w.pth")
    message = refusal(path)
    assert "does not fit mobilenet_v3_small" in message
    assert "only the head" not in message


def test_a_refused_file_leaves_the_network_unchanged(state, tmp_path):
    network = models.create(NAME, classes=5, seed=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = saved(without(shifted(state), "classifier.0.bias"), tmp_path / "w.pth")
    with pytest.raises(BadInput):
        models.load_weights(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Exploit:
    def __reduce__(self):
        return (print, ("this must never run",))


CONTENTS = {
    "a pickled module": (lambda: nn.Linear(2, 2), "pickled Python objects (torch.nn.modules.linear.Linear)"),
    "code": (lambda: {"state_dict": Exploit()}, "pickled Python objects"),
    "a list": (lambda: [1, 2], "holds no state dict (name -> tensor), a list"),
    "a tensor": (lambda: torch.ones(2), "a Tensor"),
    "an optimizer": (lambda: {"optimizer": {"lr": 1}, "epoch": 2}, "only optimizer, epoch"),
    "nothing": (dict, "holds no state dict"),
}


@pytest.mark.parametrize(("content", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_what_is_not_plain_tensors_is_refused(content, expected, tmp_path, capsys):
    message = refusal(saved(content(), tmp_path / "w.pth"), ModelFileError)
    assert expected in message
    assert "must never run" not in capsys.readouterr().out


BYTES = {
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "not a"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    "gzip": (b"\x1f\x8b\x08", "a gzip archive; unpack it first"),
    "index": (b'{"weight_map": {}}', "a JSON file, such as the index of a checkpoint in parts"),
    "other pickle": (pickle.dumps({"a": 1}, protocol=2), "not a"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("content", "expected"), BYTES.values(), ids=BYTES)
def test_what_is_no_checkpoint_is_named(suffix, content, expected, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert expected in refusal(path, ModelFileError)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(suffix, share, state, tmp_path):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "not a complete" in refusal(path, ModelFileError)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("no/such/file.pth", "no/such/file.pth: no such file"),
        ("w.onnx", "w.onnx: no such file"),
        ("READM.md", "READM.md: no such file; did you mean 'README.md'?"),
        ("imagnet", "no weights 'imagnet' for mobilenet_v3_small; did you mean 'imagenet'"),
        (3, "weights of mobilenet_v3_small are a name or a path, got 3"),
    ],
)
def test_unknown_weights_are_named(weights, expected):
    with pytest.raises(BadInput) as caught:
        models.create(NAME, weights=weights)
    assert expected in str(caught.value)


def program(path):
    torch.jit.trace(nn.Linear(2, 2).eval(), torch.ones(1, 2)).save(path)


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)), path)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pth", b"")


def tarred(path):
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "weights.pth")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (program, "a TorchScript archive, .*torch.jit.load"),
        (exported, "an archive of torch.export, .*torch.export.load"),
        (zipped, "a zip archive, but no PyTorch checkpoint"),
        (tarred, "a tar archive; unpack it"),
        (lambda path: torch.save(nn.Linear(2, 2), path), "torch.nn.modules.linear.Linear.*model.state_dict"),
        (
            lambda path: torch.save({"model": nn.Linear(2, 2)}, path),
            "torch.nn.modules.linear.Linear.*model.state_dict",
        ),
    ],
)
def test_programs_and_archives_are_named_with_the_cure(make, said, tmp_path):
    path = tmp_path / ("w.pt2" if make is exported else "w.pt")
    make(path)
    with pytest.raises(ModelFileError, match=said):
        models.create(NAME, weights=path)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "w.pth").mkdir()
    assert "no such file" in refusal(tmp_path / "w.pth")
