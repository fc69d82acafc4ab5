# The images, for people with a container engine; `cargo xtask images` makes the same without one and is what we test.
# Both put the same binary and list of crates into an image that has nothing else.
#
#   docker build --target mesh-proxy      --tag docker.io/mesh/mesh-proxy:0.2.0      .
#   docker build --target mesh-controller --tag docker.io/mesh/mesh-controller:0.2.0 .
#
# docs/development/images.md says more.

FROM docker.io/library/rust:1.95-bookworm AS builder
# setcap; the C compiler, libc.a and strip are in the base image.
RUN apt-get update && apt-get install --no-install-recommends --yes libcap2-bin && rm -rf /var/lib/apt/lists/*
WORKDIR /mesh
COPY . .

FROM builder AS build-proxy
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/mesh/target,sharing=locked \
    cargo xtask images --only mesh-proxy \
    && install -D --mode 0555 target/images-build/*/release/stripped/mesh-proxy /out/mesh-proxy \
    && install -D --mode 0444 target/images/mesh-proxy.sbom.json /out/sbom.json
# Permitted, not effective: with =ep the kernel would not start the sidecar, which drops every capability.
RUN setcap cap_net_admin=p /out/mesh-proxy

FROM builder AS build-controller
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/mesh/target,sharing=locked \
    cargo xtask images --only mesh-controller \
    && install -D --mode 0555 target/images-build/*/release/stripped/mesh-controller /out/mesh-controller \
    && install -D --mode 0444 target/images/mesh-controller.sbom.json /out/sbom.json

FROM scratch AS mesh-controller
ARG REVISION
LABEL org.opencontainers.image.title="Mesh control plane: identity, destination and injector" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-controller /out/ /
USER 4640:4640
ENTRYPOINT ["/mesh-controller"]

FROM scratch AS mesh-proxy
ARG REVISION
LABEL org.opencontainers.image.title="Mesh sidecar, and init container that redirects a pod's connections to it" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# BuildKit and Buildah copy the extended attribute that holds the file capability; Docker's builder before 23 did not.
COPY --from=build-proxy /out/ /
USER 4640:4640
ENTRYPOINT ["/mesh-proxy"]
