# markovae on CPUs. PyPI's torch brings CUDA, about 3 GB: give PyTorch's index of CPU builds, as pytorch.org shows it.
#     docker build --build-arg TORCH_INDEX=URL --tag markovae .
#     docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" markovae train photos --out runs/photos
FROM python:3.12.11-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12.11-slim-bookworm
ARG TORCH_INDEX
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
RUN test -n "$TORCH_INDEX" || { echo "give --build-arg TORCH_INDEX: PyTorch's index of CPU builds (pytorch.org)" >&2; exit 2; }; \
    pip install --no-cache-dir --constraint /wheel/constraints.txt --index-url "$TORCH_INDEX" torch \
 && pip install --no-cache-dir --constraint /wheel/constraints.txt /wheel/*.whl \
 && useradd --create-home --uid 10001 markovae
USER 10001
ENV XDG_CACHE_HOME=/tmp/cache
WORKDIR /work
ENTRYPOINT ["markovae"]
CMD ["--help"]
