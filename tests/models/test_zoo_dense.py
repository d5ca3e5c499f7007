"""What U-Net, WaveNet and the networks with several heads do, against their equations."""

import pytest
import torch
import zoo_reference
from torch.nn import functional as F

from edgecv import models
from edgecv.models import unet, wavenet
from edgecv_runtime.errors import BadInput

MULTI_HEADED = ["googlenet", "deeplabv3_mobilenet_v3_large"]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_unet_has_the_size_of_other_implementations():
    with torch.device("meta"):
        # Without biases beside batch norm, one class: github.com/mateuszbuda/brain-segmentation-pytorch has 7,763,041
        # parameters at width 32; github.com/milesial/Pytorch-UNet has 31,037,633 at width 64.
        assert count(unet.UNet(unet.Variant(32, False, 0), 1, 3)) == 7_763_041
        assert count(unet.UNet(unet.Variant(64, False, 0), 1, 3)) == 31_037_633


@pytest.mark.parametrize("name", ["unet_small", "unet_small_upsample"])
def test_unet_is_figure_1(name):
    network = models.create(name).eval()
    zoo_reference.fill(network.state_dict())
    state, x = network.state_dict(), zoo_reference.picture(32, 48)

    def double(x, prefix):
        for index in "01":
            norm = (state[f"{prefix}.{index}.1.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
            x = F.relu(F.batch_norm(F.conv2d(x, state[f"{prefix}.{index}.0.weight"], padding=1), *norm))
        return x

    def enlarged(x, level):
        if name == "unet_small":
            return F.conv_transpose2d(x, state[f"up.{level}.weight"], state[f"up.{level}.bias"], stride=2)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.conv2d(x, state[f"up.{level}.1.weight"], state[f"up.{level}.1.bias"], padding=1)

    first = double(x, "down.0")
    second = double(F.max_pool2d(first, 2), "down.1")
    third = double(F.max_pool2d(second, 2), "down.2")
    fourth = double(F.max_pool2d(third, 2), "down.3")
    out = double(F.max_pool2d(fourth, 2), "down.4")
    for level, skip in enumerate((fourth, third, second, first)):
        out = double(torch.cat([skip, enlarged(out, level)], 1), f"merge.{level}")
    expected = F.conv2d(out, state["head.weight"], state["head.bias"])
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, atol=1e-3, rtol=1e-3)


def test_a_flat_map_stays_flat_when_it_is_upsampled_and_turns_into_a_checkerboard_when_transposed():
    torch.manual_seed(0)
    flat = torch.ones(1, 32, 6, 6)
    inner = slice(2, -2)  # away from the border, where zeros are padded
    with torch.inference_mode():
        smooth, checkered = (make(16)(flat)[..., inner, inner] for make in (unet.upsampled, unet.transposed))
    assert smooth.std((2, 3)).max() < 1e-6
    assert checkered.std((2, 3)).min() > 1e-3


def test_wavenet_sees_the_past_and_no_more_than_its_receptive_field():
    network = models.create("wavenet_tiny", seed=0).eval()
    signal = torch.randn(1, 1, 1200, requires_grad=True)
    network(signal)[0, :, 1100].sum().backward()
    seen = signal.grad[0, 0].nonzero().flatten().tolist()
    assert seen == list(range(1100 - 1024, 1101))  # this sample and the 2^10 before it


def test_wavenet_is_equation_2():
    network = wavenet.WaveNet(wavenet.Variant(4, 3, 0), 5, 2).eval()
    signal = torch.randn(3, 2, 20)

    def shifted(x, layer, distance):
        """w_1 x[t] + w_0 x[t - distance] + b, with zeros before the first sample."""
        before = torch.cat([torch.zeros(*x.shape[:2], distance), x[..., :-distance]], 2)
        now, then = layer.weight[..., 1], layer.weight[..., 0]
        return now @ x + then @ before + layer.bias[:, None]

    x = shifted(signal, network.stem, 1)
    skips = 0
    for index, block in enumerate(network.blocks):
        gated = shifted(x, block.filter, 2**index).tanh() * shifted(x, block.gate, 2**index).sigmoid()
        out = block.project.weight[..., 0] @ gated + block.project.bias[:, None]
        x, skips = x + out, skips + out
    for layer in (network.head[1], network.head[3]):
        skips = layer.weight[..., 0] @ skips.relu() + layer.bias[:, None]
    torch.testing.assert_close(network(signal), skips, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MULTI_HEADED)
def test_training_gives_every_head_and_evaluation_one_tensor(name):
    network = models.create(name, classes=5, seed=0)
    x = torch.randn(2, 3, 64, 48)
    outputs = network(x)
    assert isinstance(outputs, models.Supervised)
    assert len(outputs.auxiliary) == len(network.auxiliary) == len(network.head_layers) - 1
    assert {logits.shape for logits in (outputs.logits, *outputs.auxiliary)} == {network.eval()(x).shape}
    assert outputs.weight == {"googlenet": 0.3}.get(name, 0.5)


def test_one_picture_is_too_few_to_train_the_pooled_branch():
    network = models.create("deeplabv3_mobilenet_v3_large", seed=0)
    with pytest.raises(BadInput, match="deeplabv3_mobilenet_v3_large wants batches of at least 2 in training, got 1"):
        network(torch.zeros(1, 3, 32, 32))
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 21, 32, 32)
