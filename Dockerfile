# One image for head, workers and jobs of a cluster, as kuberay/*.yaml name it; and for one machine:
#
#   docker build -t riboray:0.1.0 .
#   docker build -t riboray:0.1.0-gpu --build-arg RAY=2.60.0-py311-gpu .
#   docker run --rm -v "$PWD:/work" -w /work riboray:0.1.0 riboray embed rnas.fa --output embeddings
#
# pip's PyTorch is built for GPUs. The address of a wheel of its CPU build (pytorch.org, "Get started")
# as --build-arg TORCH=… makes the first image some gigabytes smaller.
ARG RAY=2.60.0-py311

FROM rayproject/ray:${RAY} AS wheel
WORKDIR /home/ray/source
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users platform platform
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /home/ray/wheels .

FROM rayproject/ray:${RAY}
ARG TORCH=torch==2.13.0
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "${TORCH}"
COPY --from=wheel /home/ray/wheels /home/ray/wheels
RUN pip install --no-cache-dir /home/ray/wheels/*.whl && riboray info --quiet
ENV RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/ray
