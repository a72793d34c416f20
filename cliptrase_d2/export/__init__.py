"""The image tower as a file that runs without this package: ONNX, or PyTorch's own format of exported programs."""

from cliptrase_d2.export.formats import get_format
from cliptrase_d2.export.tower import ExportableTower
from cliptrase_d2.export.write import Report, export_tower

__all__ = ["ExportableTower", "Report", "export_tower", "get_format"]
