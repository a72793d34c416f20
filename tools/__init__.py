"""Scripts; a package, lest Detectron2's own `tools` come first where both are on the path."""
