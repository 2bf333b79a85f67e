# The server with ONNX Runtime, built by the repository's own scripts. Models are mounted at /models:
#
#   docker build -t onnxd .
#   docker run --rm -p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" onnxd

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
# The pinned toolchain as the image has it, without the parts that only developers need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
# The library first: it changes rarely, and its layer is then kept.
COPY scripts/fetch-onnxruntime.sh scripts/
RUN scripts/fetch-onnxruntime.sh target/onnxruntime
COPY . .
RUN cargo build --profile dist --locked --bin onnxd

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="onnxd" \
      org.opencontainers.image.description="A model inference server for ONNX models" \
      org.opencontainers.image.licenses="Apache-2.0"
# The server looks for the library in ../lib beside its own directory.
COPY --from=build /src/target/dist/onnxd /usr/local/bin/onnxd
COPY --from=build /src/target/onnxruntime/lib/ /usr/local/lib/
COPY LICENSE NOTICE /usr/local/share/doc/onnxd/
# In a container every address is the outside: what may reach the ports is for the container's network to say.
ENV ONNXD_MODELS=/models \
    ONNXD_HTTP=0.0.0.0:8000 \
    ONNXD_GRPC=0.0.0.0:8001 \
    ONNXD_OPERATOR=0.0.0.0:8002
EXPOSE 8000 8001 8002
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["onnxd", "health"]
ENTRYPOINT ["onnxd"]
CMD ["serve"]
