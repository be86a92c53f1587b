# bots-ctl with Bots: one image for every service, started as `bots-ctl COMMAND`. docs/image.md describes the arguments.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

# Named build contexts replace these: a source tree of Bots 4.x; grammars and plugins for a new usersys.
FROM scratch AS bots-source
FROM scratch AS grammars
FROM scratch AS plugins

# The binary: first its dependencies, in a layer that only Cargo.lock invalidates.
FROM ${RUST_IMAGE} AS binary
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/it/main.rs \
    && cargo build --release --locked
COPY sql sql
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

# Bots in a virtual environment, built at its final path /opt/bots. This stage does not depend on the binary.
FROM ${BASE_IMAGE} AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev libmariadb-dev pkg-config python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
# All packages are pinned with their hashes; with BOTS=4, Bots itself comes from the build context bots-source.
ARG BOTS=3.3.1
# Any of: mysql postgresql
ARG DRIVERS="mysql postgresql"
# Any of: sftp excel pdf html
ARG EXTRAS=""
COPY src/bots/requirements /requirements
COPY --from=bots-source / /bots-source/
WORKDIR /requirements
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/bots \
    && /build/bin/pip install --require-hashes --no-deps -r build.txt \
    && case "${BOTS}" in \
        4) /build/bin/pip install --require-hashes --no-deps -r build-4.txt ;; \
        3.3.1) ;; \
        *) echo "BOTS=${BOTS}: use 3.3.1, or 4 with --build-context bots-source=DIRECTORY" >&2; exit 1 ;; \
    esac \
    && set -- build.txt "bots-${BOTS}.txt" \
    && for driver in ${DRIVERS}; do \
        if [ "${BOTS}" = 4 ] && [ -e "${driver}-4.txt" ]; then driver="${driver}-4"; fi; \
        set -- "$@" "${driver}.txt"; \
    done \
    && for extra in ${EXTRAS}; do set -- "$@" "extra-${extra}.txt"; done \
    && for file in "$@"; do \
        /build/bin/pip wheel --require-hashes --no-deps --no-build-isolation -w /wheels -r "${file}" || exit 1; \
    done \
    && if [ "${BOTS}" = 4 ]; then \
        /build/bin/pip wheel --no-deps --no-build-isolation -w /wheels /bots-source; \
    fi \
    && /build/bin/pip --python /opt/bots/bin/python install --no-index --no-deps --no-compile /wheels/*.whl \
    && /build/bin/pip --python /opt/bots/bin/python check \
    && /opt/bots/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/bots/lib

FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libmariadb3 python3 tzdata \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* \
    && useradd --uid 10001 --user-group --create-home --skel /dev/null --shell /usr/sbin/nologin bots \
    # New volumes mounted here inherit the owner of these directories.
    && install -d -o bots -g bots -m 755 /home/bots/.bots /home/bots/.bots/env /home/bots/.bots/env/default \
        /home/bots/.bots/env/default/botssys /home/bots/.bots/env/default/botssys/logging
COPY --from=python /opt/bots /opt/bots
COPY --from=grammars / /usr/local/bots/grammars/
COPY --from=plugins / /usr/local/bots/plugins/
COPY --from=binary /build/target/release/bots-ctl /usr/local/bin/bots-ctl
ARG BOTS=3.3.1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bots-ctl" \
      org.opencontainers.image.description="Bots EDI translator, prepared, started and supervised by bots-ctl" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="debian:bookworm-slim" \
      bots.version="${BOTS}"
# The last: any first word that is no command is a program to run.
ENV HOME=/home/bots BOTS_BIN_DIR=/opt/bots/bin LANG=C.UTF-8 BOTS_CTL_ENTRYPOINT=true
USER 10001:10001
WORKDIR /home/bots
EXPOSE 8080 9180 28083
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/bots-ctl", "healthcheck", "--quiet"]
ENTRYPOINT ["/usr/local/bin/bots-ctl"]
