# One image for every process of the service: `supple serve`, `supple worker`, `supple train`, `supple db upgrade`.
# docker-compose.yml starts them together.

FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/supple
ENV PATH=/opt/supple/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# On x86-64, the default PyTorch brings CUDA along: gigabytes that a service on CPUs never uses. Its installation page
# gives the address of an index of CPU builds; build with --build-arg TORCH_INDEX_URL=ADDRESS to take them from there.
ARG TORCH_INDEX_URL=""
COPY constraints.txt .
RUN pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision

COPY LICENSE README.md pyproject.toml ./
COPY evolution evolution
COPY migrations migrations
COPY service service
COPY supernet supernet
COPY supple supple
RUN pip install --constraint constraints.txt ".[s3]"

FROM python:3.11-slim
COPY --from=build /opt/supple /opt/supple
RUN useradd --uid 10001 --create-home supple && install --directory --owner supple --group supple /data
WORKDIR /home/supple
COPY configs configs
ENV PATH=/opt/supple/bin:$PATH PYTHONUNBUFFERED=1 SUPPLE_DATA_DIRECTORY=/data
USER supple
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; \
build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["supple", "serve", "--host", "0.0.0.0"]
