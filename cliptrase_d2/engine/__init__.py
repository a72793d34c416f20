"""Running things: evaluation loops and what they need to know about the run."""
