# The api: intake and documentation. No broker and no torch.
FROM python:3.11-slim AS build
RUN python -m venv /venv
WORKDIR /source
COPY constraints.txt ./
COPY . .
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[api]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home telltale
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/telltale
EXPOSE 8000
CMD ["gunicorn", "--config", "python:infra.gunicorn", "--bind", "0.0.0.0:8000", "api.wsgi:app"]
