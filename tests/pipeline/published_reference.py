"""The published protocol as its description reads: window by window, with every map of every word in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def encode_window(model: CLIPtrase, window: Tensor, text: TextFeatures, pad_to: int) -> tuple[Tensor, Tensor]:
    """Return the cosines of a window [3,h,w], on the grid and at its pixels."""
    height, width = window.shape[1:]
    above = left = 0
    if pad_to:
        below, right = -height % pad_to, -width % pad_to
        above, left = below // 2, right // 2
        window = F.pad(window, [left, right - left, above, below - above])
    side = model.tower.patch_size
    rows, columns = window.shape[1] // side, window.shape[2] // side
    tokens = model.tower(window[None, :, : rows * side, : columns * side])
    patches = F.normalize(model.method(tokens).patches[0], dim=-1)  # [N,D]
    cosines = (patches @ text.features.T).T.reshape(-1, rows, columns)
    pixels = resize(cosines, (window.shape[1], window.shape[2]))
    return cosines, pixels[:, above : above + height, left : left + width]


def slow_maps(
    model: CLIPtrase, image: Tensor, text: TextFeatures, size: tuple[int, int], protocol: PublishedProtocol
) -> Tensor:
    """Return the values of all words at the original size, before PAMR, [R,H,W]."""
    _, height, width = image.shape
    if not protocol.window:
        grid, pixels = encode_window(model, image, text, protocol.pad_to)
        if protocol.is_direct:
            return resize(grid, size)
        if protocol.average == "probabilities":
            pixels = (protocol.logit_scale * pixels).softmax(0)
        return resize(min_max(pixels) if protocol.min_max else pixels, size)
    side, stride = protocol.window, protocol.stride
    total, count = torch.zeros(len(text.features), height, width), torch.zeros(height, width)
    for row in range(max(height - side + stride - 1, 0) // stride + 1):
        for column in range(max(width - side + stride - 1, 0) // stride + 1):
            y2, x2 = min(row * stride + side, height), min(column * stride + side, width)
            y1, x1 = max(y2 - side, 0), max(x2 - side, 0)
            pixels = encode_window(model, image[:, y1:y2, x1:x2], text, protocol.pad_to)[1]
            if protocol.average == "probabilities":
                pixels = (protocol.logit_scale * pixels).softmax(0)
            total[:, y1:y2, x1:x2] += pixels
            count[y1:y2, x1:x2] += 1
    mean = total / count
    return resize(min_max(mean) if protocol.min_max else mean, size)


def min_max(maps: Tensor) -> Tensor:
    least, greatest = maps.flatten(1).amin(1)[:, None, None], maps.flatten(1).amax(1)[:, None, None]
    return (maps - least) / (greatest - least)


def slow_pamr(maps: Tensor, image: Tensor, steps: int, dilations: tuple[int, ...]) -> Tensor:
    """Refine maps [R,H,W] by an image [3,H,W] of the same size."""
    neighbours = neighbours_of(image, dilations, with_centre=True)  # [3,K,H,W]
    deviation = neighbours.std(1, unbiased=True)
    others = neighbours_of(image, dilations)
    affinity = (-(others - image[:, None]).abs() / (1e-8 + 0.1 * deviation[:, None])).mean(0).softmax(0)
    for _ in range(steps):
        maps = (neighbours_of(maps, dilations) * affinity).sum(1)
    return maps


def neighbours_of(planes: Tensor, dilations: tuple[int, ...], *, with_centre: bool = False) -> Tensor:
    """Return the shifted planes, [R,K,H,W]."""
    height, width = planes.shape[1:]
    shifted = []
    for dilation in dilations:
        padded = F.pad(planes[None], [dilation] * 4, mode="replicate")[0]
        for down in (0, dilation, 2 * dilation):
            for right in (0, dilation, 2 * dilation):
                if with_centre or (down, right) != (dilation, dilation):
                    shifted.append(padded[:, down : down + height, right : right + width])
    return torch.stack(shifted, dim=1)


def slow_decision(
    values: Tensor, class_index: Tensor, scale: float | None, prob_thd: float, area_thd: float
) -> tuple[Tensor, Tensor]:
    """Return the labels [H,W] and the class probabilities [C,H,W]. Class 0 is the background."""
    words = values if scale is None else (scale * values).softmax(0)
    classes = int(class_index.max()) + 1
    shares = words
    if classes < len(words):
        shares = torch.stack([words[class_index == index].amax(0) for index in range(classes)])
    if area_thd:
        labels = shares.argmax(0)
        pixels = [int((labels == index).sum()) for index in range(len(shares))]
        for index in range(1, len(shares)):
            if not pixels[index] > area_thd * sum(pixels[1:]):
                shares[index] *= 0
    labels = shares.argmax(0)
    labels[shares.amax(0) < prob_thd] = 0
    return labels, shares


@torch.inference_mode()
def slow_segmentation(
    model: CLIPtrase, image: Tensor, text: TextFeatures, size: tuple[int, int], protocol: PublishedProtocol
) -> tuple[Tensor, Tensor]:
    """Return labels [H,W] and class probabilities [C,H,W] of an image [3,H',W'] uint8. Class 0 is the background."""
    normalised = model.tower.normalise(image)
    values = slow_maps(model, normalised, text, size, protocol)
    if protocol.pamr_steps:
        values = slow_pamr(values, resize(normalised, size), protocol.pamr_steps, tuple(protocol.pamr_dilations))
    scale = protocol.logit_scale if protocol.average == "logits" else None
    return slow_decision(values, text.class_index, scale, protocol.prob_thd, protocol.area_thd)
