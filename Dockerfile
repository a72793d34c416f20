# The command `cliptrase` in a container, for CPUs:
#   docker build -t cliptrase .
#   docker run --rm -v "$PWD:/data" -v cliptrase-cache:/home/user/.cache cliptrase segment photo.jpg --classes "sky, tree"
# For NVIDIA GPUs, whose driver and container toolkit the host needs; PyTorch's wheels contain CUDA:
#   docker build -t cliptrase:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm --gpus all -v "$PWD:/data" cliptrase:cuda doctor
FROM python:3.12-slim-bookworm

# OpenCV loads these libraries. Debian removes older versions, so they cannot be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Before the sources, so that a change of them does not download PyTorch again. setup.cfg has the bounds of the versions.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.6" "torchvision>=0.21" --index-url "${TORCH_INDEX}"

COPY . /src
RUN pip install --no-cache-dir "/src[web]" && rm -rf /src

# With the number of the first user of most hosts, who can then change the files that it writes to /data.
RUN useradd --create-home --uid 1000 user \
    && install --directory --owner=user /home/user/.cache /data
USER 1000
WORKDIR /data
ENTRYPOINT ["cliptrase"]
CMD ["--help"]
