"""Repositories of the Hugging Face Hub, named as "hf-hub:owner/name" or "hf-hub:owner/name@revision"."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from cliptrase_d2.clip.download import check_connection, download_file
from cliptrase_d2.clip.weights_folder import INDEX, KINDS, choose_file, list_parts
from cliptrase_d2.utils.errors import InputError, first_line

logger = logging.getLogger(__name__)
PREFIX = "hf-hub:"
_REFERENCE = re.compile(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


class Reference(NamedTuple):
    """A repository, and its branch, tag or commit; None for the newest."""

    repository: str
    revision: str | None


def parse_reference(text: str) -> Reference:
    """Read "hf-hub:owner/name@revision".

    Raises:
        InputError: the text has another form.
    """
    match = _REFERENCE.fullmatch(text)
    if not match:
        raise InputError("pretrained", repr(text), "Check the spelling.", f"{PREFIX}owner/name, or with @revision")
    return Reference(match[1], match[2])


def fetch_repository(text: str) -> Path:
    """Return the local file of a repository's weights, with its configurations beside it.

    The network is used only if a file is not cached. The size of the download is logged before it begins.

    Raises:
        InputError: no such repository or revision, no known weights in it, or a failed download.
    """
    reference = parse_reference(text)
    cached = _find_cached(reference)
    if cached:
        return cached
    address = f"{constants.ENDPOINT}/{reference.repository}"
    try:
        check_connection(address)
        return _fetch(text, reference)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub and its HTTP client raise errors of their own
        fix = f"Check the connection, or download {address} on another machine and pass the folder."
        if isinstance(error, GatedRepoError):
            fix = f"Accept the terms on {address}, and set HF_TOKEN."
        elif isinstance(error, RevisionNotFoundError):
            fix = f"Choose a branch, tag or commit of {address}."
        elif isinstance(error, RepositoryNotFoundError):
            fix = "Check the name. A private repository needs HF_TOKEN."
        raise InputError("pretrained", f"failed to download {text!r} ({first_line(error)})", fix) from error


def _find_cached(reference: Reference) -> Path | None:
    """Return the weights if they and their configurations are in the cache."""
    for weights, (config, *_) in KINDS:
        for name in weights:
            file = _cached(reference, name)
            if not file or not _cached(reference, config):
                continue
            if not name.endswith(INDEX):
                return file
            try:
                list_parts(file)
            except InputError:  # the last download was interrupted
                continue
            return file
    return None


def _cached(reference: Reference, name: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(reference.repository, name, revision=reference.revision)
    return Path(path) if isinstance(path, str) else None


def _fetch(text: str, reference: Reference) -> Path:
    repository, revision = reference
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    info = api.model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    weights = choose_file(text, sizes)
    configs = next(configs for names, configs in KINDS if weights in names)
    wanted = [name for name in (*configs, weights) if name in sizes]
    if weights.endswith(INDEX):
        wanted += _list_shards(sizes, weights)
    size = sum(sizes[name] for name in wanted if not _cached(reference, name)) / 1e6
    # A warning, because logs are shown only on request, and a download can take gigabytes.
    logger.warning("Downloading %s, revision %s (%.1f MB). This happens only once.", text, info.sha, size)
    options = {} if revision is None else {"revision": revision}
    files = {name: download_file(repository, name, **options) for name in wanted}
    return files[weights]


def _list_shards(sizes: Mapping[str, int], index: str) -> list[str]:
    """Return the files of a repository that belong to an index: model-00001-of-00002.safetensors, …"""
    stem, suffix = index.removesuffix(INDEX).rsplit(".", 1)
    return [name for name in sizes if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}", name)]
