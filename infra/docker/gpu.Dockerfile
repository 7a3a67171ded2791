# What needs a GPU, judging images and finetuning: torch with CUDA, from PyPI, and the model package.
#
# Without a GPU it runs too, slowly. With PyTorch's index of CPU builds as --build-arg PIP_EXTRA_INDEX_URL=… the image
# is some GB smaller. The base is named by its version; --build-arg PYTHON=python:3.11.15-slim-bookworm@sha256:… holds
# it to its bytes.
ARG PYTHON=python:3.11.15-slim-bookworm

# pdqhash is compiled below; and what TELLTALE_COMPILED_BATCH has compiled for a GPU goes through Triton, which calls a C
# compiler when it runs. Not pinned: Debian keeps the newest build of a release alone.
FROM ${PYTHON} AS compiler
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# What it stands on, without Telltale: a layer of some GB that stays the same from one release to the next, unless a pin
# changes.
FROM compiler AS dependencies
# Of another package index, where there is one.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY constraints.txt ./
# By itself and first: it is by far the largest, and changes least.
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml ./
# pyproject.toml names three files more; what stands in them is nothing to what is installed here.
RUN touch README.md LICENSE NOTICE \
    && python -m pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt \
        '.[workers,finetune,quantized]' \
    && python -m pip --python /venv/bin/python uninstall --yes telltale
# --build-arg FLASH_ATTN=2.8.3.post2 adds flash-attn, for finetuning with `attention: flash_attention_2`: a build of its
# makers' where there is one for this torch. Where there is none it is compiled, and PYTHON has to be an image with nvcc.
ARG FLASH_ATTN=
RUN if [ -n "${FLASH_ATTN}" ]; then \
        python -m pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt setuptools wheel ninja \
        && python -m pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt \
            --no-build-isolation "flash-attn==${FLASH_ATTN}"; \
    fi

FROM ${PYTHON} AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

# --build-arg SBOM=1 lists every package of the image in /usr/local/share/sbom, as CycloneDX.
FROM dependencies AS sbom
ARG SBOM=0
RUN mkdir /sbom \
    && if [ "${SBOM}" = 1 ]; then \
        python -m venv /cyclonedx \
        && /cyclonedx/bin/pip install --no-cache-dir --constraint constraints.txt cyclonedx-bom \
        && /cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml \
            --output-file /sbom/telltale-gpu.cdx.json /venv/bin/python; \
    fi

FROM compiler
RUN useradd --uid 10001 --create-home telltale
COPY --from=dependencies /venv /venv
COPY --from=sbom /sbom /usr/local/share/sbom
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python -m pip --python /venv/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/telltale
# Where checkpoints from the hub are kept, and the work of training runs; mount volumes here.
ENV HF_HOME=/home/telltale/checkpoints
# The rest of the file system may be read-only (docker-compose.yml): what torch and others compile and cache goes here.
ENV XDG_CACHE_HOME=/tmp/cache TRITON_CACHE_DIR=/tmp/triton
RUN mkdir checkpoints retraining
ENV TELLTALE_WORKER_ROLE=screening
# The weights are fetched and loaded first.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30m \
    CMD ["sh", "-c", "celery -A workers.celery_app inspect ping --timeout 5 --destination $TELLTALE_WORKER_ROLE@$HOSTNAME"]
CMD ["celery", "-A", "workers.celery_app", "worker", "--pool", "threads", "--hostname", "screening@%h", \
     "--queues", "screening", "--without-gossip", "--without-mingle"]
