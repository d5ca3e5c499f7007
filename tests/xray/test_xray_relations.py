"""The formulas against brute force (torch itself), and the textbook's cases."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecv.xray import relations
from edgecv.xray.relations import Window
from edgecv_runtime.errors import BadInput


def test_textbook_sizes():
    assert relations.output_size(5, 3) == 3
    assert relations.output_size(28, 3, padding=1) == 28
    assert relations.output_size(28, 3, stride=2, padding=1) == 14


@pytest.mark.parametrize("ceil", [False, True])
def test_output_size_is_torchs(ceil):
    cases = itertools.product(range(1, 13), range(1, 5), range(1, 4), range(3), range(1, 3))
    tried = 0
    for size, kernel, stride, padding, dilation in cases:
        if padding > kernel // 2 or size + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        x = torch.zeros(1, 1, size)
        expected = F.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode=ceil).shape[-1]
        assert relations.output_size(size, kernel, stride, padding, dilation, ceil=ceil) == expected
        tried += 1
    assert tried > 300


def test_transposed_output_size_is_torchs():
    for size, kernel, stride, dilation in itertools.product(range(1, 6), range(1, 5), range(1, 4), range(1, 3)):
        for padding, more in itertools.product(range(2), range(stride)):
            if (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1 < 1:
                continue
            layer = nn.ConvTranspose1d(1, 1, kernel, stride, padding, min(more, stride - 1), dilation=dilation)
            expected = layer(torch.zeros(1, 1, size)).shape[-1]
            assert relations.transposed_output_size(size, kernel, stride, padding, dilation, more) == expected


def test_a_kernel_that_does_not_fit_says_what_would():
    with pytest.raises(BadInput, match="at least 5 works"):
        relations.output_size(4, 3, padding=0, dilation=2)
    assert relations.output_size(5, 3, dilation=2) == 1


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "groups", "bias"),
    [(3, 16, (3, 3), 1, True), (32, 32, (5, 5), 32, False), (8, 24, (1, 1), 1, True), (12, 8, (3, 1), 4, True)],
)
def test_parameters_are_torchs(inputs, outputs, kernel, groups, bias):
    layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)
    expected = sum(each.numel() for each in layer.parameters())
    assert relations.conv_parameters(inputs, outputs, kernel, groups, bias=bias) == expected


def test_a_depthwise_separable_3x3_needs_about_8_times_fewer():
    # Howard et al. 2017, section 3.1: "between 8 to 9 times less computation".
    plain = relations.conv_parameters(512, 512, (3, 3), bias=False)
    separable = relations.separable_parameters(512, 512, (3, 3), bias=False)
    assert 8 < plain / separable < 9
    macs = relations.conv_macs(512, 512, (3, 3), (14, 14)) / relations.separable_macs(512, 512, (3, 3), (14, 14))
    assert macs == pytest.approx(1 / (1 / 512 + 1 / 9))


def test_two_3x3_see_what_a_5x5_sees_with_fewer_parameters():
    # Simonyan and Zisserman 2015, section 2.3.
    assert relations.receptive_field([Window(3)] * 2)[:2] == relations.receptive_field([Window(5)])[:2] == (5, 1)
    two = 2 * relations.conv_parameters(64, 64, (3, 3), bias=False)
    assert two / relations.conv_parameters(64, 64, (5, 5), bias=False) == 18 / 25


def test_receptive_field_by_the_stride_product():
    # VGG-16 up to its last pooling: 212 pixels, stride 32 (Araujo et al. 2019, table of common networks).
    windows = []
    for convolutions in (2, 2, 3, 3, 3):
        windows += [Window(3, 1, (1, 1))] * convolutions + [Window(2, 2)]
    assert relations.receptive_field(windows) == (212, 32, 15.5)
