# The image: one static program, the names by which the meshes call it, and a file capability. No shell, no other file.
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t NAME .     from source, with musl
#   make image                                                          the program that `make build` leaves, no registry needed

ARG RUST_IMAGE=docker.io/library/rust:1.95-alpine

# What both images have in common.
FROM scratch AS frame
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="mesh-init" \
      org.opencontainers.image.description="Installs and checks the packet filter rules that send a pod's traffic to its sidecar proxy, with only NET_ADMIN" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
# Root, as Kata needs it: a guest may not see the file capability. Pods that run it as somebody else say so (runAsUser).
ENTRYPOINT ["/mesh-init"]

# A program made outside. image/build.sh packs it: no builder keeps file capabilities of files that it copies from the
# context, all keep those in an archive.
FROM frame AS prebuilt
ADD rootfs.tar /

# From source, on the builder's own platform for any: there is no C in it, so that Rust's own linker and musl are enough.
FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS builder
RUN apk add --no-cache musl-dev python3
WORKDIR /source
COPY . .
ARG TARGETARCH
RUN set -eu; \
    case "$TARGETARCH" in \
        amd64) target=x86_64-unknown-linux-musl ;; \
        arm64) target=aarch64-unknown-linux-musl ;; \
        *) echo "mesh-init is not built for the architecture '$TARGETARCH': amd64 or arm64" >&2; exit 1 ;; \
    esac; \
    rustup target add "$target"; \
    if [ "$target" != "$(rustc --print host-tuple)" ]; then \
        export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=rust-lld"; \
    fi; \
    cargo build --release --locked --target "$target" --bin mesh-init; \
    python3 image/rootfs.py "target/$target/release/mesh-init" /rootfs

FROM frame
COPY --from=builder /rootfs/ /
