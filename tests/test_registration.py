"""Imports register the architectures, also beside another package that has an architecture named SAN."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cliptrase_d2.d2.backend import is_installed

# Stands for `import san`, the published package: it registers its architecture and its data sets on import.
IMPORT_PUBLISHED = """
from cliptrase_d2.d2 import META_ARCH_REGISTRY, DatasetCatalog, MetadataCatalog
@META_ARCH_REGISTRY.register()
class SAN:
    published = True
published = SAN
DatasetCatalog.register("voc_sem_seg_val", list)
MetadataCatalog.get("voc_sem_seg_val").set(stuff_classes=["aeroplane"])
"""
IMPORT_OURS = "from cliptrase_d2 import add_cliptrase_config\n"
CONFIGURE = """
from cliptrase_d2.d2 import META_ARCH_REGISTRY, DatasetCatalog, MetadataCatalog, get_cfg
cfg = get_cfg()
add_cliptrase_config(cfg)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_add_cliptrase_config_registers_the_architecture() -> None:
    code = f"{IMPORT_OURS}from cliptrase_d2.d2 import META_ARCH_REGISTRY\nprint('CLIPtrase' in META_ARCH_REGISTRY)"
    assert run(code) == "True"


def test_calling_it_registers_san_and_the_data_sets() -> None:
    code = "print('SAN' in META_ARCH_REGISTRY, 'emoji_scenes' in DatasetCatalog.list(), cfg.MODEL.META_ARCHITECTURE)"
    assert run(f"{IMPORT_OURS}{CONFIGURE}add_cliptrase_config(get_cfg())\n{code}") == "True True CLIPtrase"


@pytest.mark.skipif(not is_installed(), reason="needs Detectron2; the fallback is in use")
def test_importing_the_package_after_detectron2_registers_the_architecture() -> None:
    code = "import detectron2.modeling as m, cliptrase_d2\nprint('CLIPtrase' in m.META_ARCH_REGISTRY)"
    assert run(code) == "True"


def test_importing_the_package_alone_does_not_import_torch() -> None:
    assert run("import sys, cliptrase_d2\nprint('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "imports", [IMPORT_PUBLISHED + IMPORT_OURS, IMPORT_OURS + IMPORT_PUBLISHED], ids=["theirs first", "ours first"]
)
def test_both_packages_keep_their_names(imports: str) -> None:
    code = """
from cliptrase_d2.san.model import SAN as ours
assert META_ARCH_REGISTRY.get("SAN") is published
assert issubclass(META_ARCH_REGISTRY.get("CLIPtraseSAN"), ours)
assert MetadataCatalog.get("voc_sem_seg_val").stuff_classes == ["aeroplane"]
print("pcontext_sem_seg_val" in DatasetCatalog.list())
"""
    assert run(imports + CONFIGURE + code) == "True"
