import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.register import register_dataset, register_spec
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.evaluation.report.artefacts import write_timing
from cliptrase_d2.evaluation.report.evaluations import EvaluationSource, read_evaluation
from cliptrase_d2.evaluation.report.page import write_page
from cliptrase_d2.utils.errors import InputError
from tests.browser import BROWSER, HEADLESS, NO_BROWSER

CLASSES = ["sky", "<b>tree</b>", "a&b", "road"]
CONTEXT = {
    "protocol": {"name": "center_crop", "short_side": 224},
    "config_hash": "0123456789ab",
    "versions": {"python": "3.12"},
    "extra_models": {"vision_model": {"name": "vit_<b>small", "parameters": 21665664}},
}
FACTS = ("MODEL:\n  CLIP: <script>\n", {"Model": "ViT-B-16"}, False)


def evaluate(
    folder: Path, method: str = "clip", num_classes: int = 4, name: str = "", images: int = 2, labels: bool = True
) -> EvaluationSource:
    """Evaluate a few images, the first two of them in the gallery."""
    classes = [*CLASSES, *(f"class {index}" for index in range(4, num_classes))]
    unique = f"page_{folder.name}_{num_classes}_{labels}"
    name = name or register_dataset(unique, folder, classes, folder / "labels", ignore_label=65535)
    chosen = [f"{index}.jpg" for index in range(min(images, 2))]
    evaluator = SegmentationEvaluator(name, folder / method, overlays=chosen, context=CONTEXT)
    for index in range(images):
        truth = torch.tensor([[0, 1], [2, evaluator.ignore_label]]).repeat_interleave(40, 0).repeat_interleave(50, 1)
        masks = torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(index))
        image = {"file_name": f"{index}.jpg", "image": torch.full((3, 80, 100), 90.0)}
        image |= {"sem_seg": truth} if labels else {}
        evaluator.process([image], [{"label_map": truth.clamp(max=1), "pred_masks": masks}])
    evaluator.skip("dark.jpg", InputError("dark.jpg", "a <i>broken</i> image", "Remove it."))
    evaluator.evaluate()
    return EvaluationSource(evaluator.folder, method, "a method", "https://arxiv.org/abs/2407.08268")


def page(folder: Path, *sources: EvaluationSource, facts: tuple[str, dict[str, str], bool] = FACTS) -> str:
    write_page(folder / "report.html", sources, *facts)
    return (folder / "report.html").read_text(encoding="utf-8")


def visible_text(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def pictures(page: str) -> list[tuple[str, str]]:
    """Return the source and the alternative text of every picture."""
    return re.findall(r'<img src="(.*?)" alt="(.*?)"', page)


def test_page_has_the_numbers_and_pictures_of_every_method(tmp_path: Path) -> None:
    report = page(tmp_path, evaluate(tmp_path, "clip"), evaluate(tmp_path, "cliptrase"))
    text = visible_text(report)
    assert text.count("66.67") >= 2  # 2 of 3 scored pixels
    for part in ("clip", "cliptrase", "Results", "Gallery", "Classes", "0123456789ab", "1 class is not in the ground"):
        assert part in text
    assert "With vit_<b>small, 21.7 million parameters" in text
    alternatives = [alt for _, alt in pictures(report)]
    assert len(alternatives) == 12  # of two images: input, truth, and prediction and masks of two methods
    assert any(alt.startswith("Ground truth") and "sky 25 %" in alt for alt in alternatives)
    assert any(alt.startswith("Masks of clip") for alt in alternatives)


def test_page_escapes_text_and_loads_nothing(tmp_path: Path) -> None:
    report = page(tmp_path, evaluate(tmp_path))
    assert not any(tag in report for tag in ("<b>tree</b>", "<i>broken"))
    assert report.count("<script") == 1  # the page's own
    assert all(part in visible_text(report) for part in ("<b>tree</b>", "a&b", "CLIP: <script>"))
    assert all(source.startswith("data:image/webp;base64,") for source, _ in pictures(report))
    assert len(pictures(report)) == report.count("<img") == 8
    assert not re.search(r"<link|url\(|@import", report)


def test_random_weights_are_marked(tmp_path: Path) -> None:
    source = evaluate(tmp_path)
    text = visible_text(page(tmp_path, source, facts=("", {"Weights": "random"}, True)))
    assert text.count("random weights") >= 3
    assert "Random weights." in text
    assert "random weights" not in visible_text(page(tmp_path, source)).lower()


def test_numbers_of_the_paper_are_beside_ours(tmp_path: Path) -> None:
    name = "voc_sem_seg_val"
    if name not in DatasetCatalog.list():
        register_spec(BENCHMARKS["voc20"].spec(tmp_path))
    text = visible_text(page(tmp_path, evaluate(tmp_path, "cliptrase", name=name)))
    assert "80.95" in text  # Table 3, VOC20, mIoU
    assert "not complete: the benchmark has" in text


@pytest.mark.parametrize("images", [0, 2])
def test_page_without_labels_has_predictions_but_no_numbers(tmp_path: Path, images: int) -> None:
    report = page(tmp_path, evaluate(tmp_path, images=images, labels=False))
    text = visible_text(report)
    assert [alt.split()[0] for _, alt in pictures(report)] == ["Image", "Prediction", "Masks"] * images
    assert ("Gallery" in text) == bool(images)
    assert "no pixel was scored" in text
    assert not any(part in text for part in ("Worst images", "Confusion", "Classes", "Groups", "–\n", "mIoU"))
    assert "nan" not in text.lower().split()


def test_page_with_many_classes_is_small(tmp_path: Path) -> None:
    report = page(tmp_path, evaluate(tmp_path, num_classes=847))
    assert "844 classes are not in the ground truth" in visible_text(report)
    assert len(report) < 200_000


def test_page_with_many_true_classes_is_small(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(847)]
    name = register_dataset(f"many_{tmp_path.name}", tmp_path, classes, tmp_path, ignore_label=65535)
    evaluator = SegmentationEvaluator(name, tmp_path, context=CONTEXT)
    truth = torch.arange(847).repeat(100, 1)
    prediction = torch.randint(847, truth.shape, generator=torch.Generator().manual_seed(0))
    evaluator.process([{"file_name": "a.jpg", "sem_seg": truth}], [{"label_map": prediction}])
    evaluator.evaluate()
    report = page(tmp_path, EvaluationSource(evaluator.folder, "clip", "a method"))
    assert report.count('<th scope="row">class ') > 847
    assert "The matrix names the 20 classes" in visible_text(report)
    assert len(report) < 500_000


def test_date_duration_and_speed_are_on_top(tmp_path: Path) -> None:
    sources = [evaluate(tmp_path, "clip"), evaluate(tmp_path, "cliptrase")]
    assert not any(part in page(tmp_path, *sources) for part in ("Duration", "Images/s"))  # not measured
    write_timing(sources[0].folder, 1.5, 0.0, 3)
    finished = json.loads((sources[0].folder / "timing.json").read_text())["finished"]
    text = visible_text(page(tmp_path, *sources[:1]))
    assert f"{finished[:10]} {finished[11:16]} UTC" in text[: text.index("Results")]
    assert "Duration1.5 s\n" in text
    assert "Speed2 images/s" in text
    write_timing(sources[1].folder, 3 * 3600 + 61, 0.0, 1)  # a run that was resumed
    text = visible_text(page(tmp_path, *sources))
    assert "Duration3 h 1 min, for 4 of 6 images; earlier runs evaluated the others" in text
    assert "Speed0.00037 images/s" in text


def test_the_speed_of_a_method_includes_results_that_another_one_computed(tmp_path: Path) -> None:
    sources = [evaluate(tmp_path, "clip"), evaluate(tmp_path, "cliptrase")]
    write_timing(sources[0].folder, 1.5, 0.0, 3)
    write_timing(sources[1].folder, 0.5, 1.0, 3)
    assert [read_evaluation(source).speed for source in sources] == [2.0, 2.0]
    assert "Duration2 s\n" in visible_text(page(tmp_path, *sources))


def test_worst_images_are_first(tmp_path: Path) -> None:
    name = register_dataset(f"worst_{tmp_path.name}", tmp_path, CLASSES, tmp_path)
    files = {"good": [[0, 1]], "bad <0>": [[1, 0]], "half": [[1, 1]]}
    evaluator = SegmentationEvaluator(name, tmp_path, overlays=[f"{stem}.jpg" for stem in files], context=CONTEXT)
    for stem, truth in files.items():
        image = {"file_name": f"{stem}.jpg", "image": torch.zeros(3, 1, 2), "sem_seg": torch.tensor(truth)}
        evaluator.process([image], [{"label_map": torch.tensor([[0, 1]])}])
    evaluator.evaluate()
    report = page(tmp_path, EvaluationSource(evaluator.folder, "clip", "a method"))
    assert re.findall(r"<h4>(.*?)</h4>", report)[:3] == ["bad &lt;0&gt;", "half", "good"]
    assert re.findall(r"Correct pixels: clip (.*?) %", report) == ["0.00", "50.00", "100.00"]
    table = visible_text(report[report.index("Worst images") : report.index("<h3>Gallery")])
    assert re.findall(r"(\S+)\.jpg", table) == ["<0>", "half", "good"]


def sizes_of_objects(report: str) -> list[list[str]]:
    """Return the cells of the rows of the table by size of object."""
    table = report[report.index("Sizes of objects") : report.index("<h3>Classes")]
    body = table[table.index("<tbody>") :]
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    return [list(map(html.unescape, row)) for row in cells]


def test_sizes_of_objects_are_shown_for_all_classes_and_groups(tmp_path: Path) -> None:
    groups = {"far_things": ["road"], "none": ["a&b"]}
    name = register_dataset(f"sizes_{tmp_path.name}", tmp_path, CLASSES, tmp_path, groups=groups)
    sources = []
    for method, found in (("clip", 1), ("cliptrase", 2)):
        evaluator = SegmentationEvaluator(name, tmp_path / method, context=CONTEXT)
        truth, prediction = torch.zeros(30, 40, dtype=torch.int64), torch.zeros(30, 40, dtype=torch.int64)
        truth[0, :2], prediction[0, :found] = 3, 3
        evaluator.process([{"file_name": "a.jpg", "sem_seg": truth}], [{"label_map": prediction}])
        evaluator.evaluate()
        sources.append(EvaluationSource(evaluator.folder, method, "a method"))
    assert sizes_of_objects(page(tmp_path, *sources)) == [
        ["All classes", "1 object", "0 objects", "1 object", "", "", ""],
        ["clip", "50.00", "–", "99.92", "50.00", "–", "100.00"],
        ["cliptrase", "100.00", "–", "100.00", "100.00", "–", "100.00"],
        ["far things", "1 object", "0 objects", "0 objects", "", "", ""],
        ["clip", "50.00", "–", "–", "50.00", "–", "–"],
        ["cliptrase", "100.00", "–", "–", "100.00", "–", "–"],
    ]


def test_results_without_sizes_of_objects_still_open(tmp_path: Path) -> None:
    old, new = evaluate(tmp_path, "clip"), evaluate(tmp_path, "cliptrase")
    file = old.folder / "metrics.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    sizes = ("_small", "_medium", "_large")
    file.write_text(json.dumps({key: value for key, value in report.items() if not key.endswith(sizes)}))
    assert "Sizes of objects" not in page(tmp_path, old)
    assert [row[:4] for row in sizes_of_objects(page(tmp_path, old, new))] == [
        ["All classes", "0 objects", "0 objects", "6 objects"],
        ["clip", "–", "–", "–"],
        ["cliptrase", "–", "–", "50.00"],  # the mean of 100, 50 and 0
    ]


def test_links_lead_to_files(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    report = page(tmp_path, evaluate(tmp_path))
    links = [unquote(html.unescape(link)) for link in re.findall(r'href="([^"#]*)"', report)]
    local = [link for link in links if not link.startswith("https://")]
    assert {Path(link).name for link in local} >= {"metrics.json", "confusion.npz", "overlays", "config.yaml", "0.jpg"}
    assert all((tmp_path / link).exists() for link in local)


def test_legend_has_every_class_of_the_pictures_once(tmp_path: Path) -> None:
    report = page(tmp_path, evaluate(tmp_path, num_classes=300), evaluate(tmp_path, "cliptrase", num_classes=300))
    legends = re.findall(r'<ul class="chips".*?</ul>', report, re.DOTALL)
    names = [re.findall(r"</span>(.*?)</li>", legend) for legend in legends]
    assert [sorted(map(html.unescape, legend)) for legend in names] == [
        ["(not scored)", "<b>tree</b>", "a&b", "sky"]
    ] * 2
    colours = re.findall("background:(#[0-9a-f]{6})", legends[0])
    assert len(set(colours)) == 4
    assert legends[0] == legends[1]  # all pictures share their colours


def test_unknown_pixels_are_in_legend_and_matrix(tmp_path: Path) -> None:
    name = register_dataset(f"unknown_{tmp_path.name}", tmp_path, CLASSES, tmp_path)
    evaluator = SegmentationEvaluator(name, tmp_path, overlays=["a.jpg"], context=CONTEXT)
    image = {"file_name": "a.jpg", "image": torch.zeros(3, 1, 2), "sem_seg": torch.tensor([[0, 1]])}
    evaluator.process([image], [{"label_map": torch.tensor([[0, -1]])}])
    evaluator.evaluate()
    report = page(tmp_path, EvaluationSource(evaluator.folder, "clip", "a method"))
    assert '<span class="swatch" style="background:transparent"></span>unknown</li>' in report
    assert "<title>&lt;b&gt;tree&lt;/b&gt;, predicted as unknown: 100.0 %</title>" in report


def test_pictures_beyond_the_size_limit_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliptrase_d2.evaluation.report.page.PICTURE_BYTES", 1)
    assert "2 more images are not shown" in page(tmp_path, evaluate(tmp_path))


def test_page_depends_on_files_only(tmp_path: Path) -> None:
    source = evaluate(tmp_path)
    assert page(tmp_path, source) == page(tmp_path, source)
    (source.folder / "confusion.npz").unlink()
    assert "was not saved" in page(tmp_path, source)
    for name, damaged in (("confusion.npz", "damaged"), ("metrics.json", "{")):
        (source.folder / name).write_text(damaged)
        with pytest.raises(InputError, match=rf"{re.escape(name)}: "):
            page(tmp_path, source)


# Added to the page under test. The frame's "load" event waits for the pictures, so all are loaded when it runs.
PROBE = """<script>addEventListener("load", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const state = parent.document.documentElement.dataset;
  state.pictures = [...document.images].filter((image) => image.naturalWidth > 0).length;
  state.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  state.headings = document.querySelectorAll("h2").length;
});</script>"""


def browse(folder: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a file in Chromium; stdout has the page, stderr the messages of its console."""
    command: list[Any] = [
        *(BROWSER, *HEADLESS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
        *("--virtual-time-budget=5000", *options, "--dump-dom", file.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
@pytest.mark.parametrize("width", [375, 1280])
def test_browser_shows_the_page_without_overflow(tmp_path: Path, width: int) -> None:
    report = page(tmp_path, evaluate(tmp_path, "clip"), evaluate(tmp_path, "cliptrase"))
    policy = r'<meta http-equiv="Content-Security-Policy"[^>]*>'  # forbids the probe
    probed = re.sub(policy, "", report).replace("</body>", PROBE + "</body>").replace(' loading="lazy"', "")
    # Headless Chromium has no windows as narrow as a phone, but frames; one in srcdoc may access its parent.
    frame = f'<iframe style="width:{width}px;height:900px" srcdoc="{html.escape(probed)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html>{frame}", encoding="utf-8")
    shown = browse(tmp_path, tmp_path / "frame.html", "--window-size=1400,1000").stdout
    state = {name: int(value) for name, value in re.findall(r'data-(\w+)="(-?\d+)"', shown[: shown.index("<head")])}
    assert state["pictures"] == len(pictures(report))
    assert state["overflow"] <= 0
    assert state["headings"] >= 3


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_browser_reports_no_errors(tmp_path: Path) -> None:
    page(tmp_path, evaluate(tmp_path))
    done = browse(tmp_path, tmp_path / "report.html")
    assert "Results" in done.stdout
    assert "CONSOLE" not in done.stderr  # violations of the page's own policy included
    (tmp_path / "bad.html").write_text("<script>throw new Error('error')</script>", encoding="utf-8")
    assert "CONSOLE" in browse(tmp_path, tmp_path / "bad.html").stderr  # errors would be reported


# Sorts the table of classes by each of its columns, and again by the last.
SORTER = """<script>addEventListener("load", () => {
  const heads = [...document.querySelectorAll("table.classes th[data-column]")];
  const read = () => [...document.querySelectorAll("table.classes tbody th")].map((head) => head.textContent).join(";");
  const orders = [...heads, heads.at(-1)].map((head) => {
    head.querySelector("button").click();
    return head.getAttribute("aria-sort") + ";" + document.querySelectorAll("[aria-sort]").length + ";" + read();
  });
  document.title = orders.join("|");
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_browser_sorts_the_classes(tmp_path: Path) -> None:
    name = register_dataset(f"sort_{tmp_path.name}", tmp_path, ["b", "a", "c"], tmp_path)
    evaluator = SegmentationEvaluator(name, tmp_path, context=CONTEXT)
    truth = torch.tensor([[0] * 1000 + [1] * 1200 + [2] * 30])
    prediction = torch.tensor([[0] * 900 + [1] * 700 + [2] * 630])  # accuracy in percent: b 90, a 50, c 100
    evaluator.process([{"file_name": "a.jpg", "sem_seg": truth}], [{"label_map": prediction}])
    evaluator.evaluate()
    report = page(tmp_path, EvaluationSource(evaluator.folder, "clip", "a method"))
    policy = r'<meta http-equiv="Content-Security-Policy"[^>]*>'  # forbids the added script
    (tmp_path / "report.html").write_text(re.sub(policy, "", report).replace("</body>", SORTER + "</body>"))
    shown = browse(tmp_path, tmp_path / "report.html").stdout
    title = html.unescape(shown.split("<title>")[1].split("</title>")[0])
    assert title.split("|") == [
        "ascending;1;a;b;c",
        "descending;1;a;b;c",  # 1200, 1000 and 30 pixels
        "descending;1;b;a;c",  # IoU in percent: b 90, a 46, c 5
        "descending;1;c;b;a",
        "ascending;1;a;b;c",
    ]
