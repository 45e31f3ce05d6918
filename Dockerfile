# The agent as an image that holds one program, the libraries it is linked with, the certificates it trusts, and the licences.
#
#   docker build -t cairn-agent .
#   docker run --read-only -v store:/store -v ./cairn.toml:/cairn.toml:ro cairn-agent serve --config /cairn.toml
#
# glibc, and not musl, with which the program would be all there is: docs/performance.md, "Memory", has what that would cost.
FROM rust:1.95.0-bookworm AS build

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

WORKDIR /src

# Dependencies in a layer of their own: it is built anew only when they, the contract or the build script change.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY benches benches
COPY tests tests
RUN mkdir -p src/bin/cairn \
    && echo '//! Not yet.' >src/lib.rs \
    && printf '//! Not yet.\nfn main() {}\n' >src/bin/cairn/main.rs \
    && cargo build --locked --profile dist --bin cairn

COPY src src
# Files keep their times when they are copied: cargo has to be told that these are newer than the empty ones.
RUN touch src/lib.rs src/bin/cairn/main.rs \
    && cargo build --locked --profile dist --bin cairn

# What it needs at run time, as the system here has it. Names of hosts are looked up in the order that everybody expects.
RUN mkdir -p target/image/etc target/image/licenses \
    && ldd target/dist/cairn | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=target/image \
    && cp /usr/share/doc/libc6/copyright target/image/licenses/libc6 \
    && cp /usr/share/doc/libgcc-s1/copyright target/image/licenses/libgcc-s1 \
    && echo 'hosts: files dns' >target/image/etc/nsswitch.conf

COPY scripts scripts
RUN scripts/third-party-licences >target/image/licenses/third-party

FROM scratch

LABEL org.opencontainers.image.title="cairn-agent" \
      org.opencontainers.image.description="Data-path agent: deduplicates, compresses and encrypts streams onto a volume or a bucket" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/image /
COPY LICENSE /licenses/LICENSE
COPY --from=build /src/target/dist/cairn /cairn

# Any other user does as well, as long as it may write to the store and the catalog: the image has no file that it needs to
# change, and no shell. Group 0, so that clusters that choose a user by chance find volumes of that group writable.
USER 10001:0

# gRPC; metrics and health.
EXPOSE 7420 7421

HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/cairn", "healthcheck"]

ENTRYPOINT ["/cairn"]
CMD ["serve"]
