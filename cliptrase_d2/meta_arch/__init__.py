"""Meta-architectures; importing this package registers them."""

from cliptrase_d2.meta_arch.cliptrase import CLIPtrase
from cliptrase_d2.meta_arch.san import SAN

Segmenting = CLIPtrase | SAN

__all__ = ["SAN", "CLIPtrase", "Segmenting"]
