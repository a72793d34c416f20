"""The page of `cliptrase web`: `command.py` serves it, `page.py` builds it and `service.py` computes the results."""
