"""Spectra after transposed convolution and after upsampling (Odena et al. 2016, doi:10.23915/distill.00003)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv.pages import svg
from edgecv.pages.figures import plain
from edgecv.xray.pictures.subject import Absent, Drawing, Picture, Subject

CHANNELS, SIDE, DRAWS = 16, 64, 4
# Ways to double the sides of a feature map.
FORMS = {
    "transposed, kernel 2": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, stride=2),
    "transposed, kernel 3": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, stride=2, padding=1, output_padding=1),
    "nearest upsampling + convolution 3×3": lambda: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    ),
}


def smooth(channels: int, side: int, seed: int, blur: float = 4.0) -> Tensor:
    """Random maps (1, C, side, side) without detail: noise whose spectrum falls like a Gaussian of `blur` pixels."""
    noise = torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(side)
    falls = torch.exp(-2 * (torch.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    maps: Tensor = torch.fft.ifft2(torch.fft.fft2(noise) * falls).real
    return (1 + maps / maps.std())[None]


def power(maps: Tensor) -> NDArray[np.float64]:
    """Power over horizontal frequency, 0 to 1/2 cycles a pixel, of maps (N, C, H, W); the mean level is left out.

    The border of a quarter on each side is left out, where padding shows, and a Hann window keeps the rest from
    smearing. Averaged over rows, channels and pictures.
    """
    height, width = maps.shape[2:]
    inner = maps[:, :, height // 4 : -(height // 4), width // 4 : -(width // 4)].double()
    inner = inner - inner.mean((2, 3), keepdim=True)
    window = torch.hann_window(inner.shape[3], periodic=False, dtype=torch.float64)
    found: Tensor = torch.fft.rfft(inner * window).abs().square().mean((0, 1, 2))
    return found.numpy()


def spectra() -> dict[str, NDArray[np.float64]]:
    """Power of what each form makes of smooth maps, over fresh weights, relative to the most at low frequencies."""
    found = {}
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        for name, make in FORMS.items():
            torch.manual_seed(0)
            total = sum(power(make()(smooth(CHANNELS, SIDE, seed))) for seed in range(DRAWS))
            found[name] = total / np.max(total[: len(total) // 2])
    return found


def draw(subject: Subject) -> Picture:
    """One line a form, in decibels."""
    used = forms_used(subject)
    if not used:
        return Absent("the network enlarges nothing: it has neither transposed convolutions nor upsampling")
    figure, (axis,) = svg.panels(2.9)
    looks = ((svg.ORANGE, "-"), (svg.PURPLE, (0, (3, 2))), (svg.BLUE, "-"))
    for (name, values), (shade, dash) in zip(spectra().items(), looks, strict=True):
        frequency = np.linspace(0, 0.5, len(values))
        axis.plot(frequency, 10 * np.log10(values + 1e-12), color=shade, linewidth=1.6, linestyle=dash, label=name)
    axis.set_xlabel("horizontal frequency, cycles per pixel")
    axis.set_ylabel("power, dB")
    axis.set_ylim(-70, 10)
    axis.set_xlim(0, 0.5)
    axis.grid()
    plain(axis.xaxis)
    plain(axis.yaxis)
    figure.legend(loc="outside lower center", ncols=1)
    return Drawing(figure, _caption(used))


def forms_used(subject: Subject) -> str:
    """How the network enlarges its maps, in words; "" if it does not."""
    transposed = sum(layer.kind == "transposed conv" and max(layer.stride) > 1 for layer in subject.graph.layers)
    resized = sum(layer.kind == "resize" for layer in subject.graph.layers)
    parts = [(transposed, "transposed convolution"), (resized, "upsampling")]
    return " and ".join(f"{count} by {name}" for count, name in parts if count)


def _caption(used: str) -> str:
    return (
        "What doubling the sides makes of smooth maps, with fresh weights. A rise at the right end is a pattern that "
        "changes from pixel to pixel, the checkerboard: a transposed convolution weighs even and odd pixels "
        f"differently, upsampling before the convolution treats them alike. This network enlarges {used}."
    )
