"""Learning curves of trainings: reading, comparison and drawing."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments import convergence
from tests import forked

COLD = [{10: 5.0, 20: 10.0, 30: 20.0, 40: 30.0}, {10: 7.0, 20: 12.0, 30: 20.0, 40: 34.0}]
WARM = [{10: 12.0, 20: 32.0, 30: 33.0, 40: 35.0}, {10: 12.0, 20: 32.0, 30: 33.0, 40: 33.0}]


def write_run(folder: Path, curve: dict[int, float]) -> None:
    """Write the files of a finished training."""
    last = max(curve)
    (folder / "inference" / "scenes").mkdir(parents=True)
    (folder / "inference" / "scenes" / "metrics.json").write_text(
        json.dumps({"mIoU": curve[last], "mIoU-held_out_things": curve[last] / 2})
    )
    lines = [{"iteration": 4, "total_loss": 3.0}]
    lines += [
        {"iteration": step - 1, "scenes/mIoU": value, "scenes/mIoU-held_out_things": value / 2}
        for step, value in curve.items()
        if step != last
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report.html").write_text("")


def test_curve_has_all_evaluations(tmp_path: Path) -> None:
    write_run(tmp_path, COLD[0])
    assert convergence.read_curve(tmp_path, "scenes", "mIoU", 40) == COLD[0]
    assert convergence.read_curve(tmp_path, "scenes", "mIoU-held_out_things", 40)[40] == 15


@pytest.mark.parametrize(("goal", "expected"), [(5, 10), (10, 20), (15, 25), (30, 40), (30.1, None), (1, 10)])
def test_crossing_is_interpolated_between_evaluations(goal: float, expected: float | None) -> None:
    assert convergence.find_crossing(COLD[0], goal) == expected


def test_mean_has_the_shared_iterations() -> None:
    assert convergence.mean_curve([{10: 1.0, 20: 3.0}, {10: 3.0, 30: 9.0}]) == {10: 2.0}


def test_table_has_the_iterations_to_the_cold_result() -> None:
    text = convergence.format_table({"cold": COLD, "warm": WARM}, {"cold": COLD, "warm": WARM})
    cold, warm = text.splitlines()[2:]
    assert "32.0 (30.0 to 34.0)" in cold
    assert "| 40 " in cold
    assert "| 1.00" in cold
    # The warm mean is 32 after 20 iterations. One run reaches 30 at 19, the other never reaches 34.
    assert "| 20 " in warm
    assert "| 0.50" in warm
    assert "19, never" in warm


def test_finished_trainings_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("repeated"))
    convergence.train_all([("any.yaml", 0, tmp_path)], [], 1)


def test_all_files_are_written_from_finished_trainings(tmp_path: Path) -> None:
    for kind, curves in (("cold", COLD), ("warm", WARM)):
        for seed, curve in enumerate(curves):
            write_run(tmp_path / f"{kind}_{seed}", curve)
    configs = [str(forked.ROOT / "configs" / "san" / f"emoji_scenes_{kind}.yaml") for kind in ("cold", "warm")]
    done = forked.run(
        [str(forked.ROOT / "experiments" / "convergence.py"), "--configs", *configs, "--seeds", "0", "1",
         "--output", str(tmp_path), "--", "DATASETS.TEST", "('scenes',)", "SOLVER.MAX_ITER", "40"],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "relative to cold" in done.stdout
    assert (tmp_path / "convergence.md").read_text().strip() in done.stdout
    assert json.loads((tmp_path / "convergence.json").read_text())["all classes"]["warm"][0]["20"] == 32
    with Image.open(tmp_path / "convergence.png") as picture:
        assert picture.width > 1000


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
        convergence.train_all(trainings, [], 2)
    assert not [folder for _, _, folder in trainings if (folder / "report.html").exists()]


def test_ctrl_c_ends_all_trainings(trainings: list[convergence.Training]) -> None:
    def interrupt() -> None:
        while not (trainings[0][2] / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        convergence.train_all([trainings[0], trainings[2]], [], 1)
    assert not trainings[2][2].exists()
    assert not (trainings[0][2] / "report.html").exists()
