# The server with ONNX Runtime on a base without a shell. Models are mounted at /models:
#
#   docker build -t onnxd .
#   docker run --rm --read-only -p 8000:8000 -p 8001:8001 -p 127.0.0.1:8002:8002 -v "$PWD/models:/models:ro" onnxd
#
# Where there is no way to a registry, --build-arg PYTHON=…, RUST=… and BASE=… name images that are at hand. The base needs
# glibc, libgcc and libstdc++, no more.
ARG PYTHON=python:3.12-slim-bookworm
ARG RUST=rust:1.95-slim-bookworm
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

# The library has a stage of its own: it changes rarely, and pip is needed for nothing else.
FROM ${PYTHON} AS onnxruntime
COPY scripts/fetch-onnxruntime.sh /
RUN /fetch-onnxruntime.sh /onnxruntime

FROM ${RUST} AS build
# The pinned toolchain as the image has it, without the parts that only developers need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p onnxd -p onnxd-loadtest --bins

FROM ${BASE}
LABEL org.opencontainers.image.title="onnxd" \
      org.opencontainers.image.description="A model inference server for ONNX models" \
      org.opencontainers.image.licenses="Apache-2.0"
# `onnxd loadtest` is a binary of its own: a Job in the cluster runs it from the same image.
COPY --from=build /src/target/dist/onnxd /src/target/dist/onnxd-loadtest /usr/local/bin/
# The server looks for the library in ../lib beside its own directory.
COPY --from=onnxruntime /onnxruntime/lib/ /usr/local/lib/
COPY LICENSE NOTICE /usr/local/share/doc/onnxd/
# In a container every address is the outside: what may reach the ports is for the container's network to say.
ENV ONNXD_MODELS=/models \
    ONNXD_HTTP=0.0.0.0:8000 \
    ONNXD_GRPC=0.0.0.0:8001 \
    ONNXD_OPERATOR=0.0.0.0:8002
EXPOSE 8000 8001 8002
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/local/bin/onnxd", "health"]
ENTRYPOINT ["/usr/local/bin/onnxd"]
CMD ["serve"]
