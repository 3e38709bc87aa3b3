# One file, one target per service: docker build --target frontend .
#
# BINARIES names the stage the binaries come from. `builder` compiles them here, against the
# library versions of the runtime image; that is what images for users are made of. `prebuilt`
# takes them from the folder prebuilt/ of the build context: `cargo xtask images` uses it to build
# the very same runtime stages where no image with a Rust toolchain can be had.
# Stages that are not asked for are skipped, so this needs BuildKit (the default since Docker 23;
# DOCKER_BUILDKIT=1 before).
ARG BINARIES=builder

FROM rust:1-bookworm AS builder
WORKDIR /src
COPY . .
# The registry and the target folder stay in the builder's cache: a second build compiles only what
# changed. The binaries are copied out because a cache mount is not part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release \
        --package frontend --package events-service --package backend --package roundtrip \
    && install -D --target-directory=/out \
        target/release/frontend target/release/events-service target/release/backend \
        target/release/roundtrip

FROM scratch AS prebuilt
COPY prebuilt/ /out/

FROM ${BINARIES} AS binaries

# What all services share. Nothing is installed: the binaries need only libc. The user is a number,
# so that it needs no entry in /etc/passwd and an orchestrator can see that it is not root.
FROM debian:bookworm-slim AS runtime
ARG VERSION=0.0.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Roundtrip" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
STOPSIGNAL SIGTERM

FROM runtime AS frontend
LABEL org.opencontainers.image.title="roundtrip-frontend" \
      org.opencontainers.image.description="HTTP edge: turns a request into a task and waits for its reply"
ENV PORT=4000
EXPOSE 4000
COPY --from=binaries /out/frontend /usr/local/bin/frontend
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/frontend", "health"]
ENTRYPOINT ["/usr/local/bin/frontend"]

FROM runtime AS events-service
LABEL org.opencontainers.image.title="roundtrip-events-service" \
      org.opencontainers.image.description="Records every task and brings it to a backend and its result back"
ENV OPS_PORT=9100 TASK_MAPS=/etc/roundtrip/task-maps.json
EXPOSE 9100
COPY task-maps.json /etc/roundtrip/task-maps.json
COPY --from=binaries /out/events-service /usr/local/bin/events-service
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/events-service", "health"]
ENTRYPOINT ["/usr/local/bin/events-service"]

FROM runtime AS backend
LABEL org.opencontainers.image.title="roundtrip-backend" \
      org.opencontainers.image.description="Runs the example tasks: arithmetic on numbers, concatenation of strings"
ENV OPS_PORT=9100
EXPOSE 9100
COPY --from=binaries /out/backend /usr/local/bin/backend
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/backend", "health"]
ENTRYPOINT ["/usr/local/bin/backend"]

FROM runtime AS roundtrip
LABEL org.opencontainers.image.title="roundtrip" \
      org.opencontainers.image.description="All services in one process, and the command line"
# The audit log's SQLite file is written to the working directory, which the user must own.
USER root
RUN install --directory --owner=65532 --group=65532 /var/lib/roundtrip
USER 65532:65532
WORKDIR /var/lib/roundtrip
VOLUME /var/lib/roundtrip
EXPOSE 4000
COPY --from=binaries /out/roundtrip /usr/local/bin/roundtrip
ENTRYPOINT ["/usr/local/bin/roundtrip"]
CMD ["up"]
