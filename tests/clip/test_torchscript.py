import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from cliptrase_d2.clip.torchscript import activation_in_code, is_torchscript, read_torchscript
from tests.clip.tiny import openai_state, save_openai_archive, tiny_clip


class Layered(nn.Module):
    """Parameters, buffers, nested modules, a transposed view, an empty tensor and plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 3), nn.LayerNorm(3)])
        self.turned = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("none", torch.zeros(0, 4))
        self.shared = self.blocks[0].weight
        self.sizes, self.names = [1, 2], ["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("compile_", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 2))])
def test_archive_gives_its_state_dict(tmp_path: Path, compile_: object) -> None:
    module = Layered()
    compile_(module).save(str(tmp_path / "archive.pt"))
    assert is_torchscript(tmp_path / "archive.pt")
    read = read_torchscript(tmp_path / "archive.pt")
    for name, value in module.state_dict().items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name


def test_openai_archive_gives_its_weights(tmp_path: Path) -> None:
    save_openai_archive(tiny_clip(), tmp_path / "clip.pt")
    read = read_torchscript(tmp_path / "clip.pt")
    expected = openai_state(tiny_clip())
    assert read.keys() == expected.keys()
    assert read["visual.proj"].dtype == torch.float16
    torch.testing.assert_close(read["visual.proj"].float(), expected["visual.proj"], atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")  # of tracing: shapes become constants, and TorchScript is deprecated
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_whole_traced_model_tells_its_activation_and_weights(tmp_path: Path, quick_gelu: bool) -> None:
    model = tiny_clip(quick_gelu=quick_gelu)
    inputs = torch.randn(1, 3, 64, 64), torch.randint(49408, (1, 77))
    torch.jit.trace(model, inputs, check_trace=False).save(str(tmp_path / "clip.pt"))
    assert activation_in_code(tmp_path / "clip.pt") is quick_gelu
    read = read_torchscript(tmp_path / "clip.pt")
    for name, value in model.state_dict().items():
        assert torch.equal(read[name], value), name


def test_archive_without_code_tells_no_activation(tmp_path: Path) -> None:
    save_openai_archive(tiny_clip(), tmp_path / "clip.pt")
    assert activation_in_code(tmp_path / "clip.pt") is None


def test_state_dicts_are_no_archives(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "text.pt").write_text("hello")
    assert not any(is_torchscript(path) for path in tmp_path.iterdir())


class Malicious:
    def __init__(self, call: tuple[object, tuple[object, ...]]):
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("call", [(eval, ("1",)), (getattr, (1, "real")), (torch.load, ("x",))])
def test_archive_that_names_anything_else_is_refused(tmp_path: Path, call: tuple[object, tuple[object, ...]]) -> None:
    stream = io.BytesIO()
    pickle.dump(Malicious(call), stream, protocol=2)
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", stream.getvalue())
        archive.writestr("bad/constants.pkl", b"")
    assert is_torchscript(tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        read_torchscript(tmp_path / "bad.pt")
