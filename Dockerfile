# fastseg with everything that training and evaluation need; the NVIDIA driver comes from the host.
#
#   docker build --tag fastseg .
#   docker run --gpus all --shm-size 8g --user "$(id -u):$(id -g)" --volume "$PWD/shards:/workspace/shards:ro" \
#       --volume "$PWD/runs:/workspace/runs" fastseg --gpus 8
#   docker run … --entrypoint fastseg-doctor fastseg
#   docker run … --entrypoint fastseg-eval fastseg runs/cityscapes/checkpoints/best.pt
FROM python:3.12-slim-bookworm

# torch.compile builds with a C compiler on its first step: for a GPU Triton compiles against Python.h, which this image
# has in /usr/local/include/python3.12 (its Python is built and installed whole; Debian's python3-dev is another's).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# The dependencies are a layer of their own, which stays while only fastseg changes.
WORKDIR /opt/fastseg
COPY setup.cfg pyproject.toml README.md LICENSE ./
# hadolint ignore=DL3013
RUN mkdir fastseg && touch fastseg/__init__.py && pip install --no-cache-dir '.[s3]'
COPY fastseg fastseg
COPY tools tools
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# What of the host's driver comes into the container: compute is CUDA, utility NVML, and video libnvcuvid, without which
# the GPU's JPEG engine is off without a word. enroot gives no GPU at all where the first is not set.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
# Any user may be given by --user: caches go where every user may write.
ENV HOME=/tmp PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home --home-dir /workspace fastseg && chmod 1777 /workspace
USER 1000
WORKDIR /workspace
ENTRYPOINT ["fastseg-train"]
