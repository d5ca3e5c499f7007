"""Which places of a detector learn which box: dynamic soft labels (RTMDet, arXiv:2212.07784, section 3.4).

Written from equations 2 to 5 of the paper and mmdet's dynamic_soft_label_assigner.py. A place may learn a box when its
centre lies in any box; of those, each box takes the cheapest, by classification, overlap and distance from its centre.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TOP_K = 13  # places whose overlaps say how many a box takes
RADIUS = 3.0  # strides from a box's centre, from where on distance is expensive
OVERLAP_WEIGHT = 3.0
_TINY = 1e-7


class Assigned(NamedTuple):
    """Which places learn, (P,) positions; of each which box it learns, (P,); and how well it fits it now, (P,) IoU."""

    places: Tensor
    boxes: Tensor
    overlaps: Tensor


def assign(where: Tensor, boxes: Tensor, logits: Tensor, truth: Tensor, kinds: Tensor) -> Assigned:
    """Assign the places of one image.

    where: (A, 3), x, y and stride of each place; boxes: (A, 4) and logits: (A, classes), what the network says there;
    truth: (G, 4) and kinds: (G,), the known boxes and their classes. Boxes are x1, y1, x2, y2 in pixels.
    """
    centre = where[:, None, :2]  # (A, 1, 2)
    inside = ((centre > truth[:, :2]) & (centre < truth[:, 2:])).all(2).any(1)  # (A,)
    valid = inside.nonzero().squeeze(1)  # (V,)
    if not len(valid):
        none = valid.new_empty(0)
        return Assigned(none, none, boxes.new_empty(0))
    overlap = pairwise_overlaps(boxes[valid], truth)  # (V, G)
    cost = _class_cost(logits[valid], overlap, kinds)
    cost -= OVERLAP_WEIGHT * torch.log(overlap + _TINY)  # equation 3
    middle = (truth[:, :2] + truth[:, 2:]) / 2
    distance = (where[valid, None, :2] - middle).norm(dim=2) / where[valid, None, 2]
    cost += 10 ** (distance - RADIUS)  # equation 4
    taken = torch.zeros_like(cost, dtype=torch.bool)
    counts = overlap.topk(min(TOP_K, len(valid)), dim=0).values.sum(0).int().clamp(min=1)  # (G,)
    for box, count in enumerate(counts.tolist()):
        taken[cost[:, box].topk(count, largest=False).indices, box] = True
    cheapest = torch.where(taken, cost, torch.inf).argmin(1)  # of several boxes that want a place, the cheapest
    rows = taken.any(1).nonzero().squeeze(1)
    return Assigned(valid[rows], cheapest[rows], overlap[rows, cheapest[rows]])


def _class_cost(logits: Tensor, overlap: Tensor, kinds: Tensor) -> Tensor:
    """How far the scores are from the soft label, the overlap at the box's class and 0 elsewhere -> (V, G): equation 2.

    The sum over the other classes is the same for all boxes but for their own class, so it is taken once.
    """
    others = F.softplus(logits) * logits.sigmoid() ** 2  # cross-entropy with 0, times the distance squared
    own = logits[:, kinds]  # (V, G)
    entropy = F.binary_cross_entropy_with_logits(own, overlap, reduction="none")
    return entropy * (overlap - own.sigmoid()) ** 2 + others.sum(1, keepdim=True) - others[:, kinds]


def pairwise_overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m)."""
    common = (torch.minimum(one[:, None, 2:], other[:, 2:]) - torch.maximum(one[:, None, :2], other[:, :2])).clamp(
        min=0
    )
    area = common.prod(2)
    return area / (_area(one)[:, None] + _area(other) - area).clamp(min=_TINY)


def generalized_overlaps(one: Tensor, other: Tensor) -> Tensor:
    """GIoU of each box with the one in its place, (n, 4) and (n, 4) -> (n,) in -1..1 (Rezatofighi et al. 2019)."""
    common = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    union = (_area(one) + _area(other) - common).clamp(min=_TINY)
    around = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(1)
    return common / union - (around - union) / around.clamp(min=_TINY)


def quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy with soft labels, times how far the score is from each, squared (Li et al. 2020, equation 5)."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return entropy * (wanted - logits.sigmoid()) ** 2


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
