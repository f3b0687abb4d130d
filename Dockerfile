# One image for gateways and workers: `docker run gatecrew gateway ...`, `docker run gatecrew worker your_module:worker ...`;
# and another one, by `--target tour`, for a worker in Go.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/gatecrew
COPY pyproject.toml README.md LICENSE ./
COPY protos/gatecrew protos/gatecrew
COPY registry registry
COPY gateway gateway
COPY logic_worker logic_worker
COPY cli cli
RUN /opt/gatecrew/bin/pip install --no-cache-dir . && /opt/gatecrew/bin/pip uninstall --yes --quiet setuptools pip

FROM python:3.12-slim AS gatecrew
RUN groupadd --gid 10001 gatecrew && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin gatecrew
COPY --from=build /opt/gatecrew /opt/gatecrew
WORKDIR /app
COPY examples/chat examples/chat
ENV PATH=/opt/gatecrew/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATECREW_GATEWAY__SERVICE_HOST=0.0.0.0 \
    GATECREW_GATEWAY__SERVICE_PORT=7070
USER 10001:10001
# 7000: clients; 7070: the gRPC service of a gateway, or of a worker that is started with --listen 0.0.0.0:7070
EXPOSE 7000 7070
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["gatecrew", "health", "127.0.0.1:7070"]
ENTRYPOINT ["gatecrew"]
CMD ["gateway", "--listen", "0.0.0.0:7000"]

# The reference worker in Go beside the supervisor that registers it: how a program of any language gets into a cluster.
FROM golang:1.26 AS tour-build
WORKDIR /src
ENV CGO_ENABLED=0
COPY examples/workers/go/go.mod examples/workers/go/go.sum ./
RUN go mod download
COPY examples/workers/go ./
RUN go build -trimpath -ldflags "-s -w" -o /tour .

FROM gatecrew AS tour
COPY --from=tour-build /tour /opt/tour/tour
CMD ["run", "--service", "tour", "--listen", "0.0.0.0:7070", "--", "/opt/tour/tour"]

# What is built if no target is named.
FROM gatecrew
