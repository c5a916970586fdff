# The image for those who prefer Docker; `cargo xtask image` makes the same without it.
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends \
    clang make pkg-config libelf-dev zlib1g-dev nftables containernetworking-plugins iproute2 curl ca-certificates
WORKDIR /ringfence
COPY . .
RUN cargo xtask image --output /image.tar \
    && mkdir /layout /root-of-image \
    && tar -xf /image.tar -C /layout \
    && for layer in $(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' /layout/manifest.json); do tar -xzf "/layout/$layer" -C /root-of-image; done

FROM scratch
COPY --from=build /root-of-image/ /
ENV PATH=/usr/sbin:/usr/bin
ENTRYPOINT ["/usr/bin/ringfence-agent"]
