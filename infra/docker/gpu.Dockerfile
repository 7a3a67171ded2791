# What needs a GPU, judging images and finetuning: torch with CUDA, from PyPI, and the model package.
FROM python:3.11-slim AS build
RUN python -m venv /venv
WORKDIR /source
COPY constraints.txt ./
# By itself and first: it is by far the largest layer, and changes least.
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt torch
COPY . .
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[workers,finetune]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home telltale
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/telltale
# Where checkpoints from the hub are kept, and the work of training runs; mount volumes here.
ENV HF_HOME=/home/telltale/checkpoints
# The rest of the file system may be read-only (docker-compose.yml): what torch and others compile and cache goes here.
ENV XDG_CACHE_HOME=/tmp/cache TRITON_CACHE_DIR=/tmp/triton
RUN mkdir checkpoints retraining
ENV TELLTALE_WORKER_ROLE=screening
CMD ["celery", "-A", "workers.celery_app", "worker", "--pool", "threads", "--hostname", "screening@%h", \
     "--queues", "screening", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
