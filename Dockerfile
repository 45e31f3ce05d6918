# The agent as an image that holds one static program, the certificates it trusts, and the licences.
#
#   docker build -t cairn-agent .
#   docker run --read-only -v store:/store -v ./cairn.toml:/cairn.toml:ro cairn-agent serve --config /cairn.toml
#
# musl and not a static glibc: glibc loads the resolver at run time, so a static program of it cannot look up names.
FROM rust:1.95.0-alpine AS build

# Not pinned: Alpine drops old packages, so a pinned version would stop building within weeks.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates cmake linux-headers

WORKDIR /src

# Dependencies in a layer of their own: it is built anew only when they, the contract or the build script change.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY benches benches
COPY tests tests
RUN mkdir -p src/bin/cairn \
    && touch src/lib.rs \
    && echo 'fn main() {}' >src/bin/cairn/main.rs \
    && cargo build --locked --profile dist --bin cairn

COPY src src
# Files keep their times when they are copied: cargo has to be told that these are newer than the empty ones.
RUN touch src/lib.rs src/bin/cairn/main.rs \
    && cargo build --locked --profile dist --bin cairn

COPY scripts scripts
RUN scripts/third-party-licences >target/third-party

FROM scratch

LABEL org.opencontainers.image.title="cairn-agent" \
      org.opencontainers.image.description="Data-path agent: deduplicates, compresses and encrypts streams onto a volume or a bucket" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /licenses/LICENSE
COPY --from=build /src/target/third-party /licenses/third-party
COPY --from=build /src/target/dist/cairn /cairn

# Any other user does as well, as long as it may write to the store and the catalog: the image has no file that it needs to
# change, and no shell. Group 0, so that clusters that choose a user by chance find volumes of that group writable.
USER 10001:0

# gRPC; metrics and health.
EXPOSE 7420 7421

HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/cairn", "healthcheck"]

ENTRYPOINT ["/cairn"]
CMD ["serve"]
