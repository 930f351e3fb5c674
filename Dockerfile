# One image for both roles: `serve` (the default) and `broker`. It contains no build tools.
# Name the base image by its digest where builds must be the same: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...
# Behind a package index of your own: --build-arg PIP_INDEX_URL=..., and --secret id=ca,src=ca.pem for its certificate authority.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
WORKDIR /src
COPY . .
RUN --mount=type=secret,id=ca \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python -m venv /opt/kestrel-gateway \
 && /opt/kestrel-gateway/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements.lock \
 && /opt/kestrel-gateway/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
 && /opt/kestrel-gateway/bin/pip uninstall --yes pip setuptools \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/kestrel-gateway/lib

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/kestrel-gateway /opt/kestrel-gateway
RUN groupadd --gid 10001 kestrel \
 && useradd --uid 10001 --gid kestrel --no-create-home --no-log-init --shell /usr/sbin/nologin kestrel \
 && install --directory --owner kestrel --group kestrel --mode 0700 /data
ARG VERSION=unknown
LABEL org.opencontainers.image.title="kestrel-gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.description="The HTTP service in front of Kestrel: jobs with nothing but HTTP" \
      org.opencontainers.image.source="https://github.com/kestrel-gateway/kestrel-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
# Numeric, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME /data
EXPOSE 8080 22133

# No other host reaches a container's loopback, so the gateway listens on every address of the container. Requests are not
# authenticated: publish the port to 127.0.0.1 or to an authenticating proxy only, and name the Hosts that clients use
# in KESTREL_GATEWAY_ALLOWED_HOSTS. KESTREL_GATEWAY_COMMAND is the command that runs if no arguments are given. The command
# `broker` also needs KESTREL_GATEWAY_BROKER_NO_AUTH=true, because the memcache protocol has no authentication.
ENV PATH=/opt/kestrel-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    KESTREL_GATEWAY_COMMAND=serve \
    KESTREL_GATEWAY_HOST=0.0.0.0 \
    KESTREL_GATEWAY_NO_AUTH=true \
    KESTREL_GATEWAY_DATA=/data
ENTRYPOINT ["kestrel-gateway"]
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 CMD ["kestrel-gateway", "healthcheck"]
