"""Vision models beside CLIP: plain ViTs of timm, and SAM. Methods and mask sources read them.

Reading order: vit (images to patch features), timm_vit and sam_model (models and weights), source (model by its name).
"""

from cliptrase_d2.vision_models.sam_model import SamEncoder
from cliptrase_d2.vision_models.source import VisionModel, VisionSource
from cliptrase_d2.vision_models.timm_vit import load_vit
from cliptrase_d2.vision_models.vit import FEATURES, VitBackbone

__all__ = ["FEATURES", "SamEncoder", "VisionModel", "VisionSource", "VitBackbone", "load_vit"]
