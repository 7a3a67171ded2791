# The relay, beat, the migration, and the workers that fetch links and deliver webhooks. No torch.
FROM python:3.11-slim AS build
RUN python -m venv /venv
WORKDIR /source
COPY constraints.txt ./
COPY . .
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[workers]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home telltale
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/telltale
# As it is: the worker that delivers webhooks. Compose starts the others by their commands.
ENV TELLTALE_WORKER_ROLE=delivery
CMD ["celery", "-A", "workers.celery_app", "worker", "--pool", "threads", "--hostname", "delivery@%h", \
     "--queues", "delivery,reviews,housekeeping", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
