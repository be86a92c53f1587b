#!/usr/bin/env bash
# Makes the images that the Dockerfile begins with, from Debian's packages and the Rust toolchain of this machine, for a machine
# that reaches Debian's mirror but no registry of images. The Dockerfile knows nothing of it.
#   bases.sh WORK PODMAN...    WORK: a directory for temporary files; PODMAN: the command with its options
set -euo pipefail
work=$1
shift
debian=debian:bookworm-slim
rust=rust:1.95-slim-bookworm
toolchain=$(rustc --print sysroot)
version=$(rustc --version)

if ! "$@" image exists "$debian"; then
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
    root=$work/debootstrap
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root" "${mirror:?apt knows no mirror of Debian bookworm}" >"$work/debootstrap.log"
    # Certificates of a private authority between here and the mirrors, if there is one.
    mkdir -p "$root/usr/local/share/ca-certificates"
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
    # What Debian's slim images leave out, too.
    tar -C "$root" -c --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/info/*' . |
        "$@" import --quiet --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$debian"
    rm -rf "$root"
fi

if [ "$("$@" image inspect --format '{{index .Labels "toolchain"}}' "$rust" 2>/dev/null)" != "$version" ]; then
    context=$work/rust
    mkdir -p "$context"
    cat > "$context/Dockerfile" <<DOCKERFILE
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev
ENV CARGO_HOME=/usr/local/cargo
COPY --from=toolchain bin/cargo bin/rustc /usr/local/bin/
COPY --from=toolchain lib /usr/local/lib
LABEL toolchain="$version"
DOCKERFILE
    "$@" build --quiet --network host --pull=never --build-context "toolchain=$toolchain" --tag "$rust" "$context"
fi
