"""Scripts. A package, for Detectron2's own folder of this name would otherwise come first where both are on the path."""
