# One image for every way to run the service. All settings are environment variables: see README.md.

# The proxy of compose.yaml. It does not read the file of this folder, which only its owner may be able to read.
FROM caddy:2.11.4 AS proxy
COPY --chmod=644 Caddyfile /etc/caddy/Caddyfile

FROM python:3.13.15-slim-trixie AS base

FROM base AS build
RUN python -m venv --without-pip /venv
COPY requirements.txt /tmp/
# Wheels only: nothing is compiled, and no build script of a package runs.
RUN python -m pip --python /venv/bin/python install --no-cache-dir --only-binary :all: \
        --require-hashes --requirement /tmp/requirements.txt
WORKDIR /app
# Readable for the user of the image, also from a clone that only its owner can read.
COPY --chmod=755 alembic.ini ./
COPY --chmod=755 alembic ./alembic/
COPY --chmod=755 chat_app ./chat_app/
RUN python -m compileall -q chat_app

FROM base
COPY --from=build /venv /venv
COPY --from=build /app /app
# The only folder beside /tmp that has to be writable. Ids as numbers: Kubernetes can't check whether a name is root.
RUN install --directory --owner 10001 --group 10001 /data
USER 10001:10001
VOLUME /data
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CHAT_ENV=production \
    CHAT_HOST=0.0.0.0 \
    CHAT_PORT=8000 \
    CHAT_DATA_DIR=/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import http.client, os, sys; \
    server = http.client.HTTPConnection('127.0.0.1', int(os.environ['CHAT_PORT']), timeout=2); \
    server.request('GET', '/healthz'); \
    sys.exit(server.getresponse().status != 200)"]
CMD ["python", "-m", "chat_app", "run"]
ARG REVISION=unknown
ENV CHAT_REVISION=$REVISION
LABEL org.opencontainers.image.title="chat-app" \
    org.opencontainers.image.description="A chat backend: phone registration, private and group chats, live events" \
    org.opencontainers.image.revision=$REVISION
