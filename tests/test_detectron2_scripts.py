"""Scripts of Detectron2 users: its own loaders, mapper and trainers with our models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.d2 import BACKEND, CfgNode
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.training import train as train_san
from cliptrase_d2.utils.errors import InputError
from tests.command_line import restore_loggers
from tests.docs.pages import ROOT, find_blocks
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config
from tests.san.tiny_san import training_config, weights

if BACKEND != "detectron2":
    pytest.skip("needs Detectron2; the fallback is in use", allow_module_level=True)

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import load_sem_seg
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from cliptrase_d2.d2.default_trainer import DefaultTrainer as Base
from cliptrase_d2.san.default_trainer import Trainer, _clip_before_steps


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    """Restore the loggers, which Detectron2's trainers set up."""
    with restore_loggers():
        yield


Register = Callable[[str, Path, Sequence[str]], str]


def register_here(name: str, folder: Path, classes: Sequence[str]) -> str:
    return register_dataset(name, folder / "images", classes, folder / "annotations")


def register_there(name: str, folder: Path, classes: Sequence[str]) -> str:
    """Register a data set as Detectron2 registers its own, without any word about it in its records."""
    images, labels = str(folder / "images"), str(folder / "annotations")
    DatasetCatalog.register(name, lambda: load_sem_seg(labels, images, "png", "png"))
    MetadataCatalog.get(name).set(stuff_classes=list(classes), ignore_label=255, evaluator_type="sem_seg")
    return name


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Callable[[Register], list[str]]]:
    """Return a function that registers two data sets, the second with the names of its classes reversed."""
    found: list[str] = []

    def register(function: Register) -> list[str]:
        for order, classes in (("forward", CLASSES), ("backward", CLASSES[::-1])):
            write_scenes(tmp_path / order, 3)
            found.append(function(f"{order}_{tmp_path.name}", tmp_path / order, classes))
        return found

    yield register
    for name in found:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluate(model: torch.nn.Module, cfg: CfgNode, name: str) -> dict[str, float]:
    results: dict[str, dict[str, float]] = inference_on_dataset(
        model, build_detection_test_loader(cfg, name, num_workers=0), SemSegEvaluator(name)
    )
    return results["sem_seg"]


@pytest.mark.parametrize("register", [register_here, register_there])
def test_each_data_set_is_scored_with_its_own_words(
    tmp_path: Path, names: Callable[[Register], list[str]], register: Register
) -> None:
    forward, backward = names(register)
    alone = {}
    for name in (forward, backward):
        cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)")
        alone[name] = evaluate(build_model(cfg).eval(), cfg, name)
    assert alone[forward]["pACC"] != alone[backward]["pACC"]
    for order in ((forward, backward), (backward, forward)):
        cfg = tiny_config(tmp_path, "DATASETS.TEST", str(order))
        model = build_model(cfg).eval()
        for name in order:
            assert evaluate(model, cfg, name) == pytest.approx(alone[name], nan_ok=True)


class Recorder:
    """Records the words that a model encodes."""

    def __init__(self, model: SAN):
        self.classes: list[tuple[str, ...]] = []
        self.encode = model.text_encoder
        model.text_encoder = self  # type: ignore[assignment]

    def __call__(self, vocabulary: Any) -> Any:
        self.classes.append(vocabulary.classes)
        return self.encode(vocabulary)


@pytest.mark.parametrize("register", [register_here, register_there])
def test_default_trainer_trains_with_the_words_of_the_training_set(
    tmp_path: Path, names: Callable[[Register], list[str]], register: Register
) -> None:
    forward, backward = names(register)
    options = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    data = ("DATASETS.TRAIN", f"('{forward}',)", "DATASETS.TEST", f"('{backward}',)")
    trainer = DefaultTrainer(training_config(tmp_path, *options, *data))
    recorder = Recorder(trainer.model)
    trainer.train()
    assert recorder.classes == [CLASSES]
    trainer.model.eval()
    evaluate(trainer.model, trainer.cfg, backward)
    assert recorder.classes == [CLASSES, CLASSES[::-1]]


def train(cfg: CfgNode, *, resume: bool = False) -> Trainer:
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_trainer_trains_evaluates_and_resumes(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "0.01")
    assert issubclass(Trainer, Base)
    first = train(cfg)
    results = first._last_eval_results["sem_seg"]
    own = evaluate_dataset(cfg, first.model, cfg.DATASETS.TEST[0])["sem_seg"]
    assert {key: results[key] for key in ("mIoU", "pAcc", "pACC")} == {
        key: own[key] for key in ("mIoU", "pAcc", "pACC")
    }
    longer = training_config(tmp_path, "SOLVER.MAX_ITER", "5", "SOLVER.BASE_LR", "0.01")
    second = train(longer, resume=True)
    assert (second.start_iter, second.iter) == (3, 5)
    assert torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["quick_gelu"] is True
    before, after = (weights(tmp_path / "output" / f"model_{name}.pth") for name in ("0000001", "final"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_trainer_works_beside_the_published_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "SAN", torch.nn.Identity)  # theirs
    trainer = train(training_config(tmp_path, "SOLVER.MAX_ITER", "1"))
    assert trainer._last_eval_results["sem_seg"]["pACC"] >= 0


def test_each_trainer_reads_the_others_weights_but_does_not_resume_them(tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0")
    ours, theirs = (training_config(tmp_path, *options, "OUTPUT_DIR", str(tmp_path / name)) for name in "ab")
    (tmp_path / "a").mkdir()
    train_san(ours, resume=False)
    train(theirs)
    with pytest.raises(InputError, match=r"model_final\.pth.*another trainer"):
        train_san(training_config(tmp_path, *options, "OUTPUT_DIR", theirs.OUTPUT_DIR), resume=True)
    with pytest.raises(InputError, match=r"model_final\.pth.*another trainer"):
        train(training_config(tmp_path, *options, "OUTPUT_DIR", ours.OUTPUT_DIR), resume=True)
    for folder in (ours.OUTPUT_DIR, theirs.OUTPUT_DIR):
        start = ("MODEL.WEIGHTS", f"{folder}/model_final.pth", "OUTPUT_DIR", str(tmp_path / "c"))
        assert train(training_config(tmp_path, *options, *start)).iter == 2


def test_script_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs", "datasets"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    block = find_blocks(ROOT / "docs" / "detectron2.md", "python")[0]
    names: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), names)
    assert 74 < names["results"]["sem_seg"]["pACC"] < 76
    assert names["classes"].shape == (224, 224)
    with Image.open(tmp_path / "segmented.png") as picture:
        assert picture.size == (224, 224)
    assert (names["trainer"].start_iter, names["trainer"].iter) == (3, 5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.META_ARCHITECTURE", "CLIPtrase", "nothing to train"),
        ("SOLVER.ACCUMULATION_STEPS", "2", "SOLVER.ACCUMULATION_STEPS"),
        ("SOLVER.UNLABELLED_ITER", "2", "SOLVER.UNLABELLED_ITER: 2 in DefaultTrainer"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN"),
    ],
)
def test_trainer_refuses_unusable_settings(tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trainer(training_config(tmp_path, key, value))


@pytest.mark.parametrize("clip_type", ["full_model", "norm", "value"])
def test_trainer_clips_gradients_in_every_way(tmp_path: Path, clip_type: str) -> None:
    cfg = training_config(
        tmp_path, "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type
    )
    assert train(cfg).iter == 1


def test_all_gradients_are_clipped_together() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=1.0)
    _clip_before_steps(optimizer, 2.0)
    gradients: list[Tensor] = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]  # norm 5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    assert torch.allclose(
        torch.stack([p.detach() for p in parameters]), torch.tensor([[-1.2, 0.0], [0.0, -1.6]]), atol=1e-5
    )
