"""SAN as a Detectron2 model: inputs, outputs and training."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.san.criterion import Criterion
from cliptrase_d2.san.model import SAN
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.san.tiny_san import picture, tiny_san


@pytest.fixture
def model(tmp_path: Path) -> SAN:
    return tiny_san(tmp_path)


@pytest.fixture
def trained(model: SAN) -> SAN:
    """The same model in training mode."""
    model.criterion = Criterion(3, points=64)
    return model.train()


def labelled(seed: int = 0) -> dict[str, torch.Tensor]:
    labels = torch.zeros(64, 96, dtype=torch.int64)
    labels[:, 48:] = 2
    labels[:8] = 255
    return {"image": picture(seed=seed), "sem_seg": labels}


def test_result_has_the_requested_size(model: SAN) -> None:
    output = model([{"image": picture(), "height": 50, "width": 70}])[0]
    assert output["label_map"].shape == (50, 70)
    assert output["label_map"].dtype == torch.int64
    assert output["pred_masks"].shape == (6, 50, 70)
    assert output["pred_logits"].shape == (6, 3)
    assert output["sem_seg"].shape == (3, 50, 70)
    assert model([{"image": picture()}])[0]["label_map"].shape == (64, 96)


def test_label_map_is_the_argmax_of_the_scores(model: SAN) -> None:
    output = model([{"image": picture()}])[0]
    probabilities = output["pred_logits"].exp()
    assert (probabilities.sum(1) < 1).all()  # the rest is "no object"
    scores = torch.einsum("qc,qhw->chw", probabilities, output["pred_masks"])
    assert torch.allclose(scores, output["sem_seg"], atol=1e-6)
    assert torch.equal(output["label_map"], output["sem_seg"].argmax(0))


def test_scores_are_the_shares_of_the_classes_on_the_grid(model: SAN) -> None:
    output = model([{"image": picture(50, 90), "output_grids": True}])[0]
    assert output["scores"].shape == (3, 4, 6)  # patches of 16 pixels
    torch.testing.assert_close(output["scores"].sum(0), torch.ones(4, 6))
    assert (model([{"image": picture(50, 90), "threshold": 1.0}])[0]["label_map"] == -1).all()


def test_result_does_not_depend_on_the_rest_of_the_batch(model: SAN) -> None:
    images = [picture(50, 90, seed=1), picture(64, 96, seed=2), picture(60, 70, seed=3)]  # all padded to 64x96
    batch = model([{"image": image} for image in images])
    for image, output in zip(images, batch, strict=True):
        alone = model([{"image": image}])[0]
        assert torch.allclose(output["pred_masks"], alone["pred_masks"], atol=1e-5)
        assert output["label_map"].shape == image.shape[1:]


def test_each_image_can_have_its_own_vocabulary(model: SAN) -> None:
    words = [Vocabulary.parse(["sky", "grass"]), Vocabulary.parse(["a", "b", "c", "d"])]
    outputs = model([{"image": picture(), "vocabulary": vocabulary} for vocabulary in words])
    assert [output["pred_logits"].shape[1] for output in outputs] == [2, 4]


def test_training_images_of_different_classes_are_refused(trained: SAN) -> None:
    batch = [labelled(), {**labelled(1), "vocabulary": ["sky", "grass", "sea"]}]
    with pytest.raises(InputError, match=r"vocabulary.*different classes"):
        trained(batch)


def test_training_with_other_classes_than_the_losses_is_refused(trained: SAN) -> None:
    with pytest.raises(InputError, match=r"2 classes.*DATASETS\.TRAIN has 3"):
        trained([{**labelled(), "vocabulary": ["sky", "grass"]}])


def test_grey_values_of_a_palette_are_refused_as_labels(trained: SAN) -> None:
    inputs = labelled()
    inputs["sem_seg"][:, 48:] = 175  # class 4 of a palette file, as Detectron2's mapper reads it
    with pytest.raises(InputError, match=r"sem_seg.*175, 255 with 3 classes.*palette"):
        trained([inputs])


def test_an_untrained_model_refuses_to_predict(tmp_path: Path) -> None:
    model = tiny_san(tmp_path, "MODEL.SAN.ALLOW_UNTRAINED", "False")
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS.*untrained.*ALLOW_UNTRAINED"):
        model([{"image": picture()}])
    queries = {"side_adapter_network.query_embed": model.side_adapter_network.query_embed.detach().clone()}
    model.load_state_dict(queries, strict=False)  # a warm start is not a trained network
    with pytest.raises(InputError, match="untrained"):
        model([{"image": picture()}])
    model.load_state_dict(model.state_dict())
    assert model([{"image": picture()}])


def test_a_step_of_training_allows_predictions(tmp_path: Path) -> None:
    model = tiny_san(tmp_path, "MODEL.SAN.ALLOW_UNTRAINED", "False").train()
    model.criterion = Criterion(3, points=64)
    assert model([labelled()])
    assert model.eval()([{"image": picture()}])


def test_class_has_the_logit_of_its_best_word(model: SAN) -> None:
    text = model.text_features(model.vocabularies.default)  # sky;blue, grass, star
    embeddings = F.normalize(torch.randn(5, 32), dim=-1)
    words = embeddings @ model.ov_classifier(text.features).T
    expected = torch.stack([words[:, :2].amax(1), words[:, 2], words[:, 3], words[:, 4]], dim=1)
    assert torch.allclose(model.classify(embeddings, text), expected, atol=1e-5)


def test_exactly_the_trained_parameters_get_gradients(trained: SAN) -> None:
    losses = trained([labelled(), labelled(1)])
    assert set(losses) == {f"loss_{name}{end}" for name in ("ce", "mask", "dice") for end in ("", "_0")}
    sum(losses.values()).backward()
    for name, parameter in trained.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    parts = {name.split(".")[0] for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert parts == {"side_adapter_network", "clip_visual_extractor", "ov_classifier"}


def test_training_overfits_one_image(trained: SAN) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], 1e-2)
    inputs = labelled()
    for _ in range(150):
        optimizer.zero_grad()
        sum(trained([inputs]).values()).backward()
        # Without clipping, steps this large sometimes diverge, depending on the machine's rounding.
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 0.1)
        optimizer.step()
    result = trained.eval()([inputs])[0]["label_map"]
    assert (result == inputs["sem_seg"])[inputs["sem_seg"] != 255].float().mean() > 0.95


def test_small_and_unlabelled_images_have_finite_losses(trained: SAN) -> None:
    inputs = labelled()
    small = {"image": inputs["image"][:, :40, :50], "sem_seg": inputs["sem_seg"][:40, :50]}
    unlabelled = {"image": picture(), "sem_seg": torch.full((64, 96), 255)}
    for batch in ([small, inputs], [unlabelled]):
        losses = trained(batch)
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values())


def test_training_works_after_an_evaluation(model: SAN, trained: SAN) -> None:
    model.eval()([{"image": picture()}])  # encodes the words without gradients
    sum(trained.train()([labelled()]).values()).backward()
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_state_dict_has_the_parts_of_published_checkpoints(tmp_path: Path) -> None:
    names = {name.split(".")[0] for name in tiny_san(tmp_path).state_dict()}
    assert names == {"side_adapter_network", "clip_visual_extractor", "clip_rec_head", "ov_classifier"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SAN.QUERY_INIT", "warm"),
        ("MODEL.SIDE_ADAPTER.FUSION_MAP", "['9->0']"),
        ("MODEL.SIDE_ADAPTER.FUSION_MAP", "['0->3']"),
        ("MODEL.SIDE_ADAPTER.FUSION_MAP", "['0-0']"),
        ("MODEL.SIDE_ADAPTER.FUSION_MAP", "[]"),
        ("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[1]"),
        ("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[2, 1]"),
        ("MODEL.SIDE_ADAPTER.WIDTH", "25"),
        ("INPUT.FORMAT", "BGR"),
    ],
)
def test_unusable_settings_are_rejected(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match=re.escape(key)):
        tiny_san(tmp_path, key, value)


def test_half_precision_gives_similar_masks(tmp_path: Path) -> None:
    full, half = tiny_san(tmp_path), tiny_san(tmp_path, "MODEL.CLIP.PRECISION", "bf16")
    first, second = (model([{"image": picture()}])[0]["pred_masks"] for model in (full, half))
    assert not torch.equal(first, second)
    assert torch.allclose(first, second, atol=0.05)


def test_unregistered_training_set_is_accepted_for_evaluation(tmp_path: Path) -> None:
    assert tiny_san(tmp_path, "DATASETS.TRAIN", "('of_another_machine',)").criterion is None
