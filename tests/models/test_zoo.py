"""Every model of the zoo is the published one: parameters, layer names, numbers, shapes, gradients."""

import subprocess
import sys

import pytest
import torch
import zoo_reference
from torch import nn
from torch.nn import functional as F
from zoo_reference import on_meta

from edgecv import models
from edgecv.models import blocks, vit
from edgecv.models.blocks import AdaptiveMean2d, StochasticDepth, make_divisible
from edgecv.models.spec import Registry
from edgecv_runtime.errors import BadInput

# torchvision 0.28; SE-ResNet, MobileNet, Lite, ConvNeXt atto to nano, ViT tiny and small: timm 1.0; thin MobileNets:
# trainable ones in Keras; mlp, lenet5, U-Net, detectors: see their own tests; WaveNet: counted by hand.
PARAMETERS = {
    "mlp": 837000,
    "lenet5": 146156,
    "alexnet": 61100840,
    "vgg11": 132863336,
    "vgg13": 133047848,
    "vgg16": 138357544,
    "vgg19": 143667240,
    "vgg11_bn": 132868840,
    "vgg13_bn": 133053736,
    "vgg16_bn": 138365992,
    "vgg19_bn": 143678248,
    "googlenet": 6624904,
    "resnet18": 11689512,
    "resnet34": 21797672,
    "resnet50": 25557032,
    "resnet101": 44549160,
    "resnet152": 60192808,
    "se_resnet50": 28088024,
    "mobilenet_v1_025": 470072,
    "mobilenet_v1_050": 1331592,
    "mobilenet_v1_075": 2585560,
    "mobilenet_v1": 4231976,
    "mobilenet_v2": 3504872,
    "mobilenet_v3_small": 2542856,
    "mobilenet_v3_large": 5483032,
    "efficientnet_b0": 5288548,
    "efficientnet_b1": 7794184,
    "efficientnet_b2": 9109994,
    "efficientnet_b3": 12233232,
    "efficientnet_b4": 19341616,
    "efficientnet_b5": 30389784,
    "efficientnet_b6": 43040704,
    "efficientnet_b7": 66347960,
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
    "convnext_large": 197767336,
    "vit_tiny": 5717416,
    "vit_small": 22050664,
    "vit_b_16": 86567656,
    "vit_b_32": 88224232,
    "vit_l_16": 304326632,
    "swin_t": 28288354,
    "swin_s": 49606258,
    "swin_b": 87768224,
    "unet_small": 1942594,
    "unet_small_upsample": 2160194,
    "unet": 31037698,
    "unet_upsample": 34519298,
    "lraspp_mobilenet_v3_large": 3221538,
    "deeplabv3_mobilenet_v3_large": 11025477,
    "deeplabv3_resnet50": 39638869,
    "det_mobilenet_v2": 2170236,
    "det_mobilenet_v2_416": 2170236,
    "det_mobilenet_v3_large": 3161900,
    "det_mobilenet_v3_large_416": 3161900,
    "det_efficientnet_lite0": 3319676,
    "det_efficientnet_lite0_416": 3319676,
    "det_convnext_atto": 3743156,
    "det_convnext_atto_416": 3743156,
    "wavenet_tiny": 61760,
}
# With the heads that only training runs; `num_params` of torchvision's segmentation weights.
WITH_AUXILIARY = {"googlenet": 13004888, "deeplabv3_mobilenet_v3_large": 11029328, "deeplabv3_resnet50": 42004074}
OWN = [name for name in PARAMETERS if models.spec(name).family in zoo_reference.OWN]
TIMM = [name for name in PARAMETERS if name.startswith(zoo_reference.TIMM)]
TORCHVISION = [name for name in PARAMETERS if name not in [*OWN, *TIMM]]
# The large ones run the code of the small ones with other numbers, which their shapes prove.
COMPUTED = list(zoo_reference.published_logits())


def test_the_zoo_holds_these_models():
    assert models.names() == list(PARAMETERS)


@pytest.mark.parametrize("name", models.names())
def test_parameter_count_is_the_published_one(name):
    network, spec = on_meta(name), models.spec(name)
    counts = {key: parameter.numel() for key, parameter in network.named_parameters()}
    only_training = sum(count for key, count in counts.items() if key.split(".")[0] in network.auxiliary)
    assert sum(counts.values()) - only_training == PARAMETERS[name] == spec.parameters
    assert sum(counts.values()) == WITH_AUXILIARY.get(name, PARAMETERS[name])
    assert only_training == spec.auxiliary_parameters


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


def test_every_family_is_compared_with_the_published_implementation():
    assert {models.spec(name).family for name in [*COMPUTED, *OWN]} == {
        models.spec(name).family for name in models.names()
    }


@pytest.mark.parametrize("name", COMPUTED)
def test_computes_what_the_published_implementation_computes(name):
    network = zoo_reference.narrow(name)
    zoo_reference.fill(network.state_dict())
    expected = torch.tensor(zoo_reference.published_logits()[name])
    difference = (torch.tensor(zoo_reference.logits(network, name)) - expected).abs().max()
    assert difference < 5e-5 * expected.abs().max()


@pytest.mark.parametrize("name", models.names())
def test_stem_and_heads_name_the_first_layer_and_those_with_one_output_a_class(name):
    network = on_meta(name, classes=7)
    layers = [key for key, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.Conv1d)]
    assert network.stem_layer == layers[0]
    assert set(network.head_layers) == {key for key in layers if network.get_parameter(f"{key}.weight").shape[0] == 7}
    assert network.variant == name


@pytest.mark.parametrize(
    "name",
    ["lenet5", "resnet18", "mobilenet_v1", "mobilenet_v3_small", "efficientnet_b0", "convnext_atto", "swin_t"],
)
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
        "efficientnet_b5": (1e-3, 0.01),
        "resnet50": (1e-5, 0.1),
        "vgg11_bn": (1e-5, 0.1),
        "mobilenet_v1": (1e-5, 0.1),
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


@pytest.mark.parametrize(("name", "count"), [("mlp", 266610), ("lenet5", 61706)])
def test_the_old_ones_have_their_classic_size(name, count):
    network = on_meta(name, classes=10, in_channels=1)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def squash(x):
    return 1.7159 * torch.tanh(2 * x / 3)


def test_lenet5_computes_figure_2_of_its_paper():
    network = models.create("lenet5", classes=10)
    zoo_reference.fill(network.state_dict())
    first, second, third, hidden, last = (
        (layer.weight, layer.bias) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    x = zoo_reference.picture(32, 32)
    maps = F.avg_pool2d(squash(F.conv2d(x, *first)), 2)
    maps = F.avg_pool2d(squash(F.conv2d(maps, *second)), 2)
    assert maps.shape == (1, 16, 5, 5)
    code = squash(F.linear(maps.flatten(1), third[0].flatten(1), third[1]))
    torch.testing.assert_close(network(x), F.linear(squash(F.linear(code, *hidden)), *last))


def test_mlp_is_three_matrix_products():
    network = models.create("mlp", classes=10)
    first, second, last = ((layer.weight, layer.bias) for layer in network.classifier if hasattr(layer, "weight"))
    x = zoo_reference.picture(28, 28)
    hidden = squash(squash(x.reshape(1, -1) @ first[0].T + first[1]) @ second[0].T + second[1])
    torch.testing.assert_close(network(x), hidden @ last[0].T + last[1])


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("mlp", (32, 32), "mlp wants pictures of 28x28 pixels, got 32x32; resize them"),
        ("lenet5", (28, 28), "lenet5 wants pictures of at least 32x32 pixels, got 28x28; enlarge or pad them"),
        ("alexnet", (224, 62), "at least 63x63 pixels, got 224x62"),
        ("vgg11", (31, 64), "at least 32x32 pixels, got 31x64"),
        ("convnext_atto", (31, 64), "at least 32x32 pixels, got 31x64"),
        ("googlenet", (14, 20), "at least 15x15 pixels, got 14x20"),
        ("vit_b_16", (225, 8), "multiples of 16 pixels, got 225x8; resize or pad to 224x16"),
        ("unet", (100, 7), "unet wants sides that are multiples of 16 pixels, got 100x7; resize or pad to 96x16"),
        ("wavenet_tiny", (16, 16), "wavenet_tiny wants signals (N, 1, T), got (1, 3, 16, 16)"),
        ("swin_t", (3, 64), "at least 4x4 pixels, got 3x64"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_one_that_can(name, size, expected):
    with pytest.raises(BadInput) as caught:
        on_meta(name)(torch.empty(1, 3, *size, device="meta"))
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", [name for name in models.names() if models.spec(name).task != "sequence"])
def test_the_smallest_size_is_the_smallest_that_works(name):
    network, classes = on_meta(name).eval(), models.spec(name).classes
    side = network.smallest
    outputs = network(torch.empty(1, 3, side, side, device="meta"))
    if models.spec(name).task == "detection":
        assert outputs.scores.shape[::2] == (1, classes)
    else:
        assert outputs.shape[:2] == (1, classes)
    if side > 1:
        with pytest.raises(BadInput):
            network(torch.empty(1, 3, side - 1, side, device="meta"))


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (14, 21), (3, 10), (8, 5)])
def test_adaptive_mean_is_the_one_of_pytorch(size):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(AdaptiveMean2d(7)(x), F.adaptive_avg_pool2d(x, 7))


def test_positions_are_interpolated_for_another_size():
    encoder = vit.Encoder(width=2, depth=0, heads=1, side=14)
    assert encoder.positions(14, 14) is encoder.pos_embedding
    with torch.no_grad():  # a slope from top to bottom in one channel, from left to right in the other
        grid = torch.stack(torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij"), dim=-1)
        encoder.pos_embedding[0, 1:] = grid.reshape(-1, 2)
    positions = encoder.positions(28, 7)
    assert torch.equal(positions[:, 0], encoder.pos_embedding[:, 0])
    down, right = positions[0, 1:].reshape(28, 7, 2).unbind(-1)
    inner = (torch.arange(28.0) + 0.5) / 2 - 0.5  # centres of pixels, away from the border
    torch.testing.assert_close(down[6:-6, 3], inner[6:-6], atol=0.05, rtol=0)
    torch.testing.assert_close(right[3, 2:-2], ((torch.arange(7.0) + 0.5) * 2 - 0.5)[2:-2])


def test_fresh_weights_are_the_published_ones():
    def deviation(name, layer):
        return models.create(name, seed=0).get_parameter(layer).std().item()

    assert deviation("resnet18", "layer2.0.conv1.weight") == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert deviation("swin_t", "features.1.0.mlp.0.weight") == pytest.approx(0.02, rel=0.02)
    assert deviation("vit_tiny", "conv_proj.weight") == pytest.approx((1 / 768) ** 0.5, rel=0.02)
    assert deviation("vit_tiny", "encoder.layers.encoder_layer_0.mlp.0.weight") == pytest.approx(
        (2 / (192 + 768)) ** 0.5, rel=0.02
    )
    assert deviation("vit_tiny", "heads.head.weight") == 0
    assert deviation("lenet5", "features.3.weight") == pytest.approx(150**-0.5, rel=0.05)
    assert zoo_reference.narrow("vgg11").classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_squeeze_and_excitation_is_one_block_for_all():
    for name in ("se_resnet50", "mobilenet_v3_small", "efficientnet_b0"):
        assert any(type(module) is blocks.SqueezeExcitation for module in on_meta(name).modules())


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
