"""Learning curves of trainings: reading, comparison and drawing."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.utils.errors import InputError
from experiments import convergence
from experiments.convergence import Row
from tests import forked

COLD_CONFIG = forked.ROOT / "configs" / "san" / "emoji_scenes_cold.yaml"
COLD = [{10: 5.0, 20: 10.0, 30: 20.0, 40: 30.0}, {10: 7.0, 20: 12.0, 30: 20.0, 40: 34.0}]
WARM = [{10: 12.0, 20: 32.0, 30: 33.0, 40: 35.0}, {10: 12.0, 20: 32.0, 30: 33.0, 40: 33.0}]


def write_run(folder: Path, curve: dict[int, float]) -> None:
    """Write the files of a finished training."""
    last = max(curve)
    (folder / "inference" / "scenes").mkdir(parents=True)
    (folder / "inference" / "scenes" / "metrics.json").write_text(
        json.dumps({"mIoU": curve[last], "mIoU-held_out_things": curve[last] / 2})
    )
    lines = [{"iteration": 4, "total_loss": 3.0, "time": 2.0}, {"iteration": 34, "total_loss": 3.0, "time": 1.0}]
    lines += [
        {"iteration": step - 1, "scenes/mIoU": value, "scenes/mIoU-held_out_things": value / 2}
        for step, value in curve.items()
        if step != last
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(unlabelled: int = 0) -> CfgNode:
    return load_config(COLD_CONFIG, ["DATASETS.TEST", "('scenes',)", "SOLVER.MAX_ITER", "40",
                                     "SOLVER.UNLABELLED_ITER", str(unlabelled)])  # fmt: skip


def read(folder: Path, unlabelled: int = 0) -> list[Row]:
    return convergence.read_rows(("cold.yaml", 3, folder), config(unlabelled), "mIoU-held_out_things")


def rows(**runs: list[dict[int, float]]) -> list[Row]:
    return [
        Row(start, seed, step, value, value / 2, step)
        for start, curves in runs.items()
        for seed, curve in enumerate(curves)
        for step, value in curve.items()
    ]


def test_training_has_a_row_for_each_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path, COLD[0])
    seconds = [5 * 2 + 5, 5 * 2 + 15, 5 * 2 + 25, 5 * 2 + 35]  # 2 seconds per step until step 5, then 1
    assert read(tmp_path) == [
        Row("cold", 3, step, value, value / 2, time)
        for (step, value), time in zip(COLD[0].items(), seconds, strict=True)
    ]


def test_unlabelled_iterations_have_negative_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, COLD[0])
    (tmp_path / "unlabelled").mkdir()
    early = [{"iteration": 4, "time": 3.0}, {"iteration": 4, "scenes/mIoU": 1.0, "scenes/mIoU-held_out_things": 0.5}]
    (tmp_path / "unlabelled" / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in early))
    with (tmp_path / "metrics.json").open("a") as file:
        start = {"iteration": -1, "start_seconds": 50, "scenes/mIoU": 2.0, "scenes/mIoU-held_out_things": 1.0}
        file.write(json.dumps(start) + "\n")
    found = read(tmp_path, unlabelled=10)
    # Ten steps of 3 seconds end at second 50.
    assert [(row.iteration, row.seconds) for row in found[:3]] == [(-5, 35), (0, 50), (10, 65)]


def test_rows_are_stored_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "runs.csv"
    assert convergence.read_csv(path) == []
    stored = rows(warm=WARM, cold=COLD)
    convergence.write_csv(path, stored)
    assert convergence.read_csv(path) == sorted(stored)
    assert path.read_text().splitlines()[1] == "cold,0,10,5.00,2.50,10"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("start,seed\n", "the columns start, seed"),
        ("", "the columns"),
        (",".join(convergence.COLUMNS) + "\ncold,0,10,5,x,1\n", r"runs\.csv:2: 'cold,0,10,5,x,1'"),
        (",".join(convergence.COLUMNS) + "\ncold,0\n", r"runs\.csv:2: 'cold,0'"),
    ],
)
def test_damaged_file_is_an_error(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        convergence.read_csv(tmp_path / "runs.csv")


@pytest.mark.parametrize(("goal", "expected"), [(5, 10), (10, 20), (15, 25), (30, 40), (30.1, None), (1, 10)])
def test_crossing_is_interpolated_between_evaluations(goal: float, expected: float | None) -> None:
    assert convergence.find_crossing(COLD[0], goal) == expected


def test_mean_has_the_shared_iterations() -> None:
    assert convergence.mean_curve([{10: 1.0, 20: 3.0}, {10: 3.0, 30: 9.0}]) == {10: 2.0}


def test_interval_of_identical_seeds_is_a_point() -> None:
    assert convergence.bootstrap_crossing([WARM[0]] * 3, [COLD[1]] * 3) == (35, 35)  # 33 at 30, 35 at 40


def test_interval_covers_all_seeds() -> None:
    low, high = convergence.bootstrap_crossing(WARM, COLD)
    assert low == pytest.approx(19)  # to 30, of twice the first cold seed
    assert high is None  # twice the second warm seed never reaches 34


def test_table_has_the_iterations_to_the_cold_result() -> None:
    text = convergence.format_table(rows(cold=COLD, warm=WARM))
    cold, warm = text.splitlines()[2:]
    assert "32.0 (30.0 to 34.0)" in cold
    assert "16.0 (15.0 to 17.0)" in cold
    assert "| 1.00" in cold
    # The warm mean is 32 after 20 iterations.
    assert "| 20 (19 to never)" in warm
    assert "| 0.50" in warm


def test_finished_trainings_are_added_once_and_all_files_are_made_of_the_table(tmp_path: Path) -> None:
    convergence.write_csv(tmp_path / "runs.csv", rows(cold=COLD, warm=WARM))
    done = forked.run(
        [str(forked.ROOT / "experiments" / "convergence.py"), "--configs", str(COLD_CONFIG), "--seeds", "0", "1",
         "--output", str(tmp_path / "output"), "--csv", str(tmp_path / "runs.csv")],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "relative to cold" in done.stdout
    assert (tmp_path / "output" / "convergence.md").read_text().strip() in done.stdout
    with Image.open(tmp_path / "output" / "convergence.png") as picture:
        assert picture.width > 1000


def test_each_finished_training_is_reported(trainings: list[convergence.Training]) -> None:
    (trainings[0][2].parent / "train_net.py").write_text("")
    finished: list[int] = []
    convergence.train_all(trainings, [], 1, lambda training: finished.append(training[1]))
    assert finished == [0, 1, 2]


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[convergence.Training]:
    """Three replacements of train_net.py. The first takes a minute, the second fails after the first has started."""
    (tmp_path / "train_net.py").write_text(
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1])\n"
        "(folder / 'started').touch()\n"
        "if folder.name == '1':\n"
        "    while not (folder.parent / '0' / 'started').exists():\n"
        "        time.sleep(0.01)\n"
        "    sys.exit('error: no such class')\n"
        "time.sleep(60)\n"
        "(folder / 'report.html').touch()\n"
    )
    monkeypatch.setattr(convergence, "ROOT", tmp_path)
    return [("scenes.yaml", seed, tmp_path / str(seed)) for seed in range(3)]


def test_failed_training_is_named_and_ends_the_others(trainings: list[convergence.Training]) -> None:
    with pytest.raises(convergence.InputError, match=r"scenes\.yaml: .*seed 1.*error: no such class"):
        convergence.train_all(trainings, [], 2, print)
    assert not [folder for _, _, folder in trainings if (folder / "report.html").exists()]


def test_ctrl_c_ends_all_trainings(trainings: list[convergence.Training]) -> None:
    def interrupt() -> None:
        while not (trainings[0][2] / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        convergence.train_all([trainings[0], trainings[2]], [], 1, print)
    assert not trainings[2][2].exists()
    assert not (trainings[0][2] / "report.html").exists()
