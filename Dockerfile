# milco serve on a CPU.
#
#   docker build -t milco-hf .
#   docker run --rm -p 8000:8000 milco-hf
#   docker run --rm -p 8000:8000 -v "$PWD/my-index:/data/index:ro" milco-hf --index /data/index
#   docker run --rm -p 8000:8000 -e MILCO_API_KEY milco-hf        # the token comes from the caller's environment
#
# What is given after the image's name are options of `milco serve`. The image holds the bundled checkpoint; another one
# is mounted, or comes from the Hub into /data.

FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HOME=/data/huggingface

# PyTorch's own index has builds without CUDA, which are a tenth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install -c constraints.txt torch
COPY modeling ./modeling
COPY training ./training
COPY milco_hf ./milco_hf
RUN pip install -c constraints.txt ".[serve,index]" && rm -rf /src/*

RUN useradd --create-home --uid 10001 milco && mkdir /data && chown milco /data
USER milco
WORKDIR /data
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# as the first process itself, not under a shell, so that SIGTERM reaches it
ENTRYPOINT ["milco", "serve", "--host", "0.0.0.0"]
