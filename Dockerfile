# docker build -t carellama .
# docker run --rm -it -v carellama-cache:/cache -v "$PWD/work:/work" carellama demo
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 CARELLAMA_CACHE=/cache
WORKDIR /opt/carellama
COPY requirements.lock ./
RUN pip install -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY data ./data
COPY examples ./examples
# editable, because the demo takes the bundled data from beside src/
RUN pip install --no-deps --editable . \
    && useradd --create-home --uid 1000 carellama \
    && mkdir /cache /work \
    && chown carellama /cache /work
USER carellama
WORKDIR /work
VOLUME ["/cache", "/work"]
ENTRYPOINT ["carellama"]
CMD ["--help"]
