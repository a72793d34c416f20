"""Meta-architectures; importing this package registers them."""

from cliptrase_d2.meta_arch.cliptrase import CLIPtrase

__all__ = ["CLIPtrase"]
