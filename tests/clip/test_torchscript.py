import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from cliptrase_d2.clip.torchscript import find_activation, is_torchscript, read_torchscript
from tests.clip.tiny import openai_state, save_openai_archive, tiny_clip


class Layered(nn.Module):
    """Parameters, buffers, nested modules, a transposed view, an empty tensor and plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 3), nn.LayerNorm(3)])
        self.transposed = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.shared = self.blocks[0].weight
        self.sizes, self.names = [1, 2], ["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def assert_equal(path: Path, expected: dict[str, torch.Tensor]) -> None:
    assert is_torchscript(path)
    tensors = read_torchscript(path)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("compile_", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 2))])
def test_archive_gives_its_state_dict(tmp_path: Path, compile_: object) -> None:
    module = Layered()
    compile_(module).save(str(tmp_path / "archive.pt"))
    assert_equal(tmp_path / "archive.pt", module.state_dict())


def test_openai_archive_gives_its_weights(tmp_path: Path) -> None:
    save_openai_archive(tiny_clip(), tmp_path / "clip.pt")
    expected = {name: v.half() if v.is_floating_point() else v for name, v in openai_state(tiny_clip()).items()}
    assert_equal(tmp_path / "clip.pt", expected)
    assert find_activation(tmp_path / "clip.pt") is None, "this archive has no code"


@pytest.mark.filterwarnings("ignore")  # of tracing: shapes become constants, and TorchScript is deprecated
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_traced_model_gives_its_activation_and_weights(tmp_path: Path, quick_gelu: bool) -> None:
    model = tiny_clip(quick_gelu=quick_gelu)
    inputs = torch.randn(1, 3, 64, 64), torch.randint(49408, (1, 77))
    torch.jit.trace(model, inputs, check_trace=False).save(str(tmp_path / "clip.pt"))
    assert find_activation(tmp_path / "clip.pt") is quick_gelu
    assert_equal(tmp_path / "clip.pt", model.state_dict())


class Malicious:
    def __init__(self, call: tuple[object, tuple[object, ...]]):
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("call", [(eval, ("1",)), (getattr, (1, "real")), (torch.load, ("x",))])
def test_archive_with_other_globals_is_rejected(tmp_path: Path, call: tuple[object, tuple[object, ...]]) -> None:
    stream = io.BytesIO()
    pickle.dump(Malicious(call), stream, protocol=2)
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", stream.getvalue())
        archive.writestr("bad/constants.pkl", b"")
    assert is_torchscript(tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        read_torchscript(tmp_path / "bad.pt")
