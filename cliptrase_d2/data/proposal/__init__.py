"""Proposal of a data-set file: what a folder of anybody's data holds, and the YAML that reads it."""

from cliptrase_d2.data.proposal.label_keys import Draft
from cliptrase_d2.data.proposal.propose import propose
from cliptrase_d2.data.proposal.text import render

__all__ = ["Draft", "propose", "render"]
