"""Segmentation of images by the published protocol, with methods of windows or of whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, TextFeatures
from cliptrase_d2.methods import ImageMethod, WholeImage
from cliptrase_d2.methods.region_maps import resize_regions
from cliptrase_d2.methods.trident import fit_photograph
from cliptrase_d2.methods.word_maps import WindowAxis, cut_windows
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.experts import ExpertText, fuse
from cliptrase_d2.pipeline.open_vocabulary import ImageResult
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.published import (
    PublishedLabels,
    PublishedProtocol,
    PublishedText,
    average_windows,
    encode_together,
    encode_windows,
    interpolate_window,
    label_pixels,
    label_windows,
    place_windows,
    put_background_first,
)
from cliptrase_d2.pipeline.sam_refinement import refine_labels
from cliptrase_d2.pipeline.tiles import get_output_size
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import check_finite, stack_to_device
from cliptrase_d2.vision_models.sam_attention import SamReader

if TYPE_CHECKING:
    from cliptrase_d2.pipeline.model import CLIPtrase


def segment_published(
    model: CLIPtrase, inputs: Sequence[dict[str, Any]], protocol: PublishedProtocol
) -> Iterator[dict[str, Tensor]]:
    """Yield the outputs of images of one size, as `CLIPtrase.forward` describes them.

    Args:
        model: with its method and settings.
        inputs: of the model, completed.
        protocol: of the evaluation.
    Raises:
        InputError: a threshold of an input, an image smaller than a patch, values that are NaN or infinite, or an input
            without the photograph that the method reads.
    """
    if threshold := max(one["threshold"] for one in inputs):
        got = f"{threshold} with the published protocol, which has a threshold of its own"
        raise InputError("threshold", got, "Set TEST.PUBLISHED.PROB_THD, or choose another protocol.")
    text = model.text_features(inputs[0]["vocabulary"])
    images = model.tower.normalise(stack_to_device([one["image"] for one in inputs], model.device))
    is_whole = isinstance(model.method, ImageMethod)  # such methods read the masks' logits
    reader = SamReader(model.sam) if model.sam is not None and protocol.reads_sam(model.method) else None
    regions = None
    if protocol.region_vote or (model.method.needs.regions and not is_whole):
        regions = [predict_masks(model, one).regions() for one in inputs]
    if model.experts is not None:
        results = _label_by_experts(model, inputs, images, text, protocol)
    elif is_whole:
        results = _label_whole_images(model, inputs, images, text, protocol, reader)
    else:
        results = _label_windows(model, inputs, images, regions, text, protocol)
    for index, (one, result) in enumerate(zip(inputs, results, strict=True)):
        if protocol.region_vote and regions is not None:
            result = result.vote(regions[index])
        if protocol.sam_refinement:
            assert reader is not None, "configure loads SAM"
            result = _refine_by_sam(model, one, result, protocol, reader)
        yield _make_output(model, one, result)


def _label_windows(
    model: CLIPtrase,
    inputs: Sequence[dict[str, Any]],
    images: Tensor,
    regions: Sequence[Tensor] | None,
    text: TextFeatures,
    protocol: PublishedProtocol,
) -> Iterator[PublishedLabels]:
    windows = place_windows((images.shape[2], images.shape[3]), model.tower.patch_size, protocol, _name(inputs[0]))
    parts = None
    if regions is not None and model.method.needs.regions:
        size = (images.shape[2], images.shape[3])
        parts = torch.cat([cut_regions(one, size, windows) for one in regions])

    def encode(views: Tensor, part: Tensor | None = None) -> Tensor:
        return stages.compute_word_logits(model.encode_views(views, text, part), text, 1.0, model.settings)

    cosines = encode_windows(images, windows, encode, parts)  # [B,K,R,h,w]
    check_finite(cosines, inputs)
    ordered = put_background_first(text)
    for one, image, own in zip(inputs, images, cosines, strict=True):
        yield label_windows(own, image, ordered, windows, get_output_size(one), protocol)


def _label_by_experts(
    model: CLIPtrase, inputs: Sequence[dict[str, Any]], images: Tensor, text: TextFeatures, protocol: PublishedProtocol
) -> Iterator[PublishedLabels]:
    side, ordered = model.tower.patch_size, put_background_first(text)
    assert model.experts is not None
    experts = model.experts(inputs[0]["vocabulary"], ordered)
    windows = place_windows((images.shape[2], images.shape[3]), side, protocol, _name(inputs[0]))
    features = encode_features(model, images, windows, text)
    for one, image, own in zip(inputs, images, features, strict=True):
        check_finite(own.patches[None], [one])
        fused = _fuse_windows(model, own, windows, ordered, experts, protocol)
        maps = average_windows(fused, *windows)
        maps = maps.min_max() if protocol.min_max else maps
        yield label_pixels(maps, None, image, ordered, (side, side), get_output_size(one), protocol)


def encode_features(
    model: CLIPtrase, images: Tensor, windows: tuple[WindowAxis, WindowAxis], text: TextFeatures
) -> Iterator[DenseFeatures]:
    """Yield the features of all windows of each image, [K,N,D], window by window in rows.

    Args:
        model: with a method of dense features.
        images: [B,3,H,W] normalised.
        windows: rows and columns.
        text: of the words, for methods that read it.
    """

    def encode(views: Tensor) -> tuple[Tensor, ...]:
        features = model.encode_views(views, text)
        patches = features.patches.unflatten(1, features.grid)  # [n,h,w,D]
        return (patches,) if features.class_token is None else (patches, features.class_token)

    encoded = encode_together([cut_windows(images, *windows)], len(images), encode)
    for patches, *class_token in zip(*(part.unflatten(0, (len(images), -1)) for part in encoded), strict=True):
        yield DenseFeatures(patches.flatten(1, 2), (patches.shape[1], patches.shape[2]), *class_token)


def _fuse_windows(
    model: CLIPtrase,
    features: DenseFeatures,
    windows: tuple[WindowAxis, WindowAxis],
    text: PublishedText,
    experts: ExpertText,
    protocol: PublishedProtocol,
) -> Iterator[Tensor]:
    """Yield the probabilities of the words at the pixels of each window of an image, [R,H',W']."""
    for index in range(len(features.patches)):
        class_token = None if features.class_token is None else features.class_token[index, None]
        window = DenseFeatures(features.patches[index, None], features.grid, class_token)
        default, cosines = (
            stages.compute_word_logits(window, words, 1.0, model.settings)[0]
            for words in (text.features, experts.features)
        )
        down, right = interpolate_window(features.grid, *windows, default)
        own = experts.probabilities(cosines, protocol.logit_scale)
        yield fuse((protocol.logit_scale * default).softmax(0), own, down, right)


def cut_regions(regions: Tensor, size: tuple[int, int], windows: tuple[WindowAxis, WindowAxis]) -> Tensor:
    """Return the regions of the windows of an image, [K,h,w] int64, without the remainder behind the last whole patch.

    Args:
        regions: [H',W'] int64 at the size of the photograph, below 0 for pixels in no region.
        size: (H, W) of the resized image.
        windows: rows and columns. The padding of a window is a region of its own, as in the published code of CorrCLIP.
    """
    padding = int(regions.max()) + 1  # the windows of the difference are padded with 0
    parts = cut_windows(resize_regions(regions[None], size)[:, None] - padding, *windows)[:, 0] + padding
    height, width = (axis.padded // axis.patch * axis.patch for axis in windows)
    return parts[:, :height, :width]


def _label_whole_images(
    model: CLIPtrase,
    inputs: Sequence[dict[str, Any]],
    images: Tensor,
    text: TextFeatures,
    protocol: PublishedProtocol,
    reader: SamReader | None,
) -> Iterator[PublishedLabels]:
    method, side, ordered = model.method, model.tower.patch_size, put_background_first(text)
    assert isinstance(method, ImageMethod)
    for one, image in zip(inputs, images, strict=True):
        whole = make_whole_image(model, one, image, ordered, protocol, reader)
        result = label_pixels(method(whole), protocol.logit_scale, image, ordered, (side, side), whole.size, protocol)
        check_finite(result.coarse_scores()[None], [one])
        yield result


def make_whole_image(
    model: CLIPtrase,
    inputs: dict[str, Any],
    image: Tensor,
    text: PublishedText,
    protocol: PublishedProtocol,
    reader: SamReader | None = None,
) -> WholeImage:
    """Return the input of a method of whole images.

    Args:
        model: with its method and settings.
        inputs: of the model for one image.
        image: [3,H,W] normalised.
        text: of the words.
        protocol: of the evaluation.
        reader: of SAM; None for a method that does not need it.
    Raises:
        InputError: a window is smaller than a patch, or the photograph is missing or of another size.
    """
    method, size, side = model.method, get_output_size(inputs), model.tower.patch_size
    assert isinstance(method, ImageMethod)
    windows = None
    if method.reads_windows:
        size_seen = (image.shape[1], image.shape[2])
        windows = place_windows(size_seen, side, protocol, _name(inputs), may_be_small=method.pads_windows)

    def encode(
        views: Tensor, read: Callable[[ImageTokens], tuple[Tensor, ...]], needs: Needs | None = None
    ) -> tuple[Tensor, ...]:
        wanted = method.needs if needs is None else needs
        return encode_together([views], 1, lambda part: model.read_tokens(part, wanted, read))

    def score(features: Tensor) -> Tensor:
        cosines = features @ text.features.features.T
        bias = getattr(model.clip, "logit_bias", None)  # SigLIP's loss has no softmax, so its logits have a scale
        return cosines if bias is None else cosines * model.clip.logit_scale.exp() + bias

    photograph = _get_photograph(model, inputs, size) if method.needs.photograph else None
    return WholeImage(
        pixels=image,
        size=size,
        text=text.features,
        patch_size=side,
        encode=encode,
        tower=model.tower.without_tokens(),
        fixed_side=model.tower.fixed_side,
        black=model.tower.normalise(torch.zeros(3, 1, 1, device=model.device)),
        score=score,
        windows=windows,
        photograph=photograph,
        masks=_predict_mask_logits(model, inputs, photograph) if method.needs.regions else None,
        vision_model=model.vision_model,
        rgb=inputs["image"].to(model.device),
        read_sam=reader.read_last_attention if reader is not None and method.needs.sam else None,
    )


def to_mask_logits(masks: MaskProposals) -> Tensor:
    """Return the logits of masks that divide an image, [K,H,W] int8: 1 inside and -1 outside."""
    indices = torch.arange(len(masks), device=masks.assignment.device)[:, None, None]
    return torch.where(masks.assignment == indices, 1, -1).to(torch.int8)


def _get_photograph(model: CLIPtrase, inputs: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    fix = "EvaluationMapper and Segmenter add it. Otherwise, put the image before its resizing into the input."
    if "photograph" not in inputs:
        raise InputError("photograph", f"missing in an input of {model.settings.method!r}", fix)
    photograph: Tensor = inputs["photograph"]
    if tuple(photograph.shape) != (3, *size):
        got = f"a tensor of shape {list(photograph.shape)} for a result of shape {list(size)}"
        raise InputError("photograph", got, fix, allowed=f"[3, {size[0]}, {size[1]}]")
    return photograph.to(model.device)


def _predict_mask_logits(model: CLIPtrase, inputs: dict[str, Any], photograph: Tensor | None) -> Tensor:
    """Return the mask logits of the model's mask source, [K,H,W] at the size of the result."""
    pixels = inputs["image"].to(model.device) if photograph is None else photograph
    logits = model.mask_source.predict_logits(pixels.float(), get_output_size(inputs))
    return to_mask_logits(predict_masks(model, inputs)) if logits is None else logits


def predict_masks(model: CLIPtrase, inputs: dict[str, Any]) -> MaskProposals:
    """Return the masks of the model's mask source for an image, at the size of the result.

    Raises:
        InputError: the photograph is needed, and missing or of another size.
    """
    size, image = get_output_size(inputs), model.preprocess([inputs])  # in whole patches, for sources that read them
    pixels = _get_photograph(model, inputs, size) if model.needs_photograph else inputs["image"].to(model.device)
    correlation = model.encode_image(image, want_features=False).correlation
    return model.predict_masks(image, correlation, [size], pixels[None])[0]


def _refine_by_sam(
    model: CLIPtrase, inputs: Mapping[str, Any], result: PublishedLabels, protocol: PublishedProtocol, reader: SamReader
) -> PublishedLabels:
    photograph = fit_photograph(_get_photograph(model, inputs, get_output_size(inputs)), model.tower.patch_size)
    embedding, seen = reader.embed(photograph), (photograph.shape[1], photograph.shape[2])
    return result.redraw(
        lambda labels, probabilities: refine_labels(
            reader.sam, embedding, seen, labels, probabilities, protocol.sam_refinement
        )
    )


def _make_output(model: CLIPtrase, inputs: dict[str, Any], result: PublishedLabels) -> dict[str, Tensor]:
    shares = stages.refine(result.labels, inputs["image"], model.settings)
    classes = result.classes
    output = ImageResult({"label_map": shares.label_map if shares else result.labels})
    output["pred_logits"] = result.labels.new_zeros((0, classes), dtype=torch.float32)
    if inputs["output_grids"]:
        output["scores"] = result.coarse_scores()
        output["coarse_masks"] = output["scores"][:0]
    if inputs.get("output_masks", True):
        output["pred_masks"] = output["pred_logits"].new_zeros((0, *result.labels.shape))
    if inputs["output_sem_seg"]:
        output["sem_seg"] = shares.to_scores(classes) if shares else result.probabilities()
    return output


def _name(inputs: Mapping[str, Any]) -> str:
    return str(inputs.get("file_name", "image"))
