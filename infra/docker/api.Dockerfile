# The api: intake, dashboard and documentation. No broker and no torch.
#
# The base is named by its version; --build-arg PYTHON=python:3.11.15-slim-bookworm@sha256:… holds it to its bytes.
ARG PYTHON=python:3.11.15-slim-bookworm

# What it stands on, without Telltale: a layer that stays the same from one release to the next, unless a pin changes.
FROM ${PYTHON} AS dependencies
# pdqhash is compiled here. Not pinned: Debian keeps the newest build of a release alone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# Of another package index, where there is one.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY constraints.txt pyproject.toml ./
# pyproject.toml names three files more; what stands in them is nothing to what is installed here.
RUN touch README.md LICENSE NOTICE \
    && python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt '.[api]' \
    && python -m pip --python /venv/bin/python uninstall --yes telltale

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
            --output-file /sbom/telltale-api.cdx.json /venv/bin/python; \
    fi

FROM ${PYTHON}
RUN useradd --uid 10001 --create-home telltale
COPY --from=dependencies /venv /venv
COPY --from=sbom /sbom /usr/local/share/sbom
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python -m pip --python /venv/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/telltale
EXPOSE 8000
# No request, for which a thread would have to be free: while a database hangs, all of them may wait for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), timeout=3).close()"]
CMD ["gunicorn", "--config", "python:infra.gunicorn", "--bind", "0.0.0.0:8000", "api.wsgi:app"]
