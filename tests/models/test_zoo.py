"""Every model of the zoo is the published one: parameters, layer names, numbers, shapes, gradients."""

import subprocess
import sys

import pytest
import torch
import zoo_reference
from torch import nn

from edgecv import models
from edgecv.models.blocks import StochasticDepth, make_divisible
from edgecv.models.spec import Registry
from edgecv_runtime.errors import BadInput

# torchvision 0.28; Lite and ConvNeXt atto to nano: timm 1.0.
PARAMETERS = {
    "mobilenet_v2": 3504872,
    "mobilenet_v3_small": 2542856,
    "mobilenet_v3_large": 5483032,
    "efficientnet_b0": 5288548,
    "efficientnet_b1": 7794184,
    "efficientnet_b2": 9109994,
    "efficientnet_b3": 12233232,
    "efficientnet_b4": 19341616,
    "efficientnet_lite0": 4652008,
    "efficientnet_lite1": 5416680,
    "efficientnet_lite2": 6092072,
    "efficientnet_lite3": 8197096,
    "efficientnet_lite4": 13006568,
    "convnext_atto": 3695520,
    "convnext_femto": 5217784,
    "convnext_pico": 9045672,
    "convnext_nano": 15593560,
    "convnext_tiny": 28589128,
    "convnext_small": 50223688,
    "convnext_base": 88591464,
}
TORCHVISION = [name for name in PARAMETERS if not name.startswith(zoo_reference.TIMM)]
TIMM = [name for name in PARAMETERS if name.startswith(zoo_reference.TIMM)]
# ConvNeXt small and base run the code of tiny with other numbers, which their shapes prove.
QUICK = [name for name, count in PARAMETERS.items() if count < 30e6]


def on_meta(name, **options):
    """A network with shapes and no memory."""
    with torch.device("meta"):
        return models.create(name, **options)


def test_the_zoo_holds_these_models():
    assert models.names() == list(PARAMETERS)


@pytest.mark.parametrize("name", models.names())
def test_parameter_count_is_the_published_one(name):
    count = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert count == PARAMETERS[name] == models.spec(name).parameters


@pytest.mark.parametrize("name", TORCHVISION)
def test_state_dict_has_the_names_shapes_and_order_of_torchvision(name):
    published = zoo_reference.published_state_dicts()[name]
    ours = {key: list(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}
    assert list(ours.items()) == list(published.items())


@pytest.mark.parametrize("name", TIMM)
def test_state_dict_has_the_shapes_and_order_of_timm(name):
    def without_ones(shapes):
        return [[length for length in shape if length != 1] for shape in shapes]

    published = zoo_reference.published_state_dicts()[name]
    ours = [tensor.shape for tensor in on_meta(name).state_dict().values()]
    assert without_ones(ours) == without_ones(published.values())


@pytest.mark.parametrize("name", QUICK)
def test_computes_what_the_published_implementation_computes(name):
    network = models.create(name)
    zoo_reference.fill(network.state_dict())
    expected = torch.tensor(zoo_reference.published_logits()[name])
    difference = (torch.tensor(zoo_reference.logits(network)) - expected).abs().max()
    assert difference < 5e-5 * expected.abs().max()


@pytest.mark.parametrize("name", models.names())
def test_gives_one_logit_a_class_for_any_size_and_number_of_channels(name):
    for channels, size in ((3, models.spec(name).size), (1, (96, 160))):
        network = on_meta(name, classes=7, in_channels=channels).eval()
        assert network(torch.empty(2, channels, *size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in QUICK if PARAMETERS[name] < 16e6])
def test_gradient_reaches_every_parameter(name):
    network = models.create(name, classes=3).eval()
    zoo_reference.fill(network.state_dict())
    network(zoo_reference.picture(32, 32)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", models.names())
def test_stem_and_head_name_the_first_and_the_last_layer(name):
    network = on_meta(name, classes=7)
    layers = [key for key, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert (network.stem, network.head) == (layers[0], layers[-1])
    assert network.variant == name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "convnext_atto"])
def test_fresh_weights_keep_the_signal_alive(name):
    network = models.create(name, seed=0).train()
    with torch.no_grad():
        spread = network(zoo_reference.picture(64, 64).repeat(4, 1, 1, 1) * torch.rand(4, 1, 1, 1)).std()
    assert 1e-3 < spread < 10


def test_batch_normalization_is_the_published_one():
    published = {
        "mobilenet_v2": (1e-5, 0.1),
        "mobilenet_v3_large": (1e-3, 0.01),
        "efficientnet_b4": (1e-5, 0.1),
        "efficientnet_lite0": (1e-3, 0.01),
    }
    for name, expected in published.items():
        norms = [module for module in on_meta(name).modules() if isinstance(module, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


def test_seed_makes_weights_reproducible_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (models.create("mobilenet_v3_small", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation():
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 3, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = layer(x)
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (out.amax(dim=(1, 2, 3)) == out.amin(dim=(1, 2, 3))).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="p must lie"):
        StochasticDepth(1.0)


def test_make_divisible_rounds_but_not_down_by_more_than_a_tenth():
    assert [make_divisible(channels) for channels in (3, 8, 11, 12, 35.2, 67.2)] == [8, 8, 16, 16, 32, 64]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnext_atto"])
def test_exports_plainly_with_a_dynamic_batch(name):
    network = models.create(name).eval()
    zoo_reference.fill(network.state_dict())
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (torch.rand(2, 3, 96, 96),), dynamic_shapes=({0: batch},))
    x = torch.rand(5, 3, 96, 96)
    torch.testing.assert_close(program.module()(x), network(x), atol=1e-4, rtol=1e-4)
    operators = {str(node.target) for node in program.run_decompositions().graph.nodes}
    assert not {operator for operator in operators if "strided" in operator}  # ONNX has no such thing


def test_unknown_model_names_the_nearest():
    with pytest.raises(BadInput, match="no model 'mobilnet_v3_small' in the zoo; did you mean 'mobilenet_v3_small'"):
        models.create("mobilnet_v3_small")
    with pytest.raises(BadInput, match="'efficientnet_lite0'"):
        models.spec("efficientnet-lite0")


@pytest.mark.parametrize("value", [0, -1, 2.5, "10", True])
@pytest.mark.parametrize("option", ["classes", "in_channels"])
def test_impossible_numbers_are_refused(option, value):
    with pytest.raises(BadInput, match=f"{option} of mobilenet_v2 must be a whole number"):
        models.create("mobilenet_v2", **{option: value})


def test_a_name_is_registered_once():
    registry = Registry()
    model = models.ZOO["mobilenet_v2"]
    registry.add(model)
    with pytest.raises(ValueError, match="'mobilenet_v2' is in the zoo twice"):
        registry.add(model)


def test_importing_edgecv_does_not_import_torch():
    code = "import sys, edgecv; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
