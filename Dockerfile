# AudioCLIP on torch's official image, with CUDA 13. NOT BUILT OR RUN YET.
#
#     docker build -t audioclip .
#     mkdir -p results ~/.cache/audioclip
#     docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" \
#         -v "$PWD/results:/audioclip/results" -v ~/.cache/audioclip:/cache audioclip
#
# This trains the quickstart, as `make run` does. For another command, append it, and mount what it reads and writes:
#
#     docker run ... -v "$PWD/assets:/audioclip/assets" -v "$PWD/data:/audioclip/data" audioclip \
#         python main.py -c protocols/audioclip-esc50.json
#
# `Setup.compile` needs a C compiler, which the image lacks: take the one that ends in -devel.

FROM pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime

ENV AUDIOCLIP_CACHE=/cache PYTHONDONTWRITEBYTECODE=1 PIP_BREAK_SYSTEM_PACKAGES=1 UV_BREAK_SYSTEM_PACKAGES=1

WORKDIR /audioclip
COPY pyproject.toml requirements.lock .ci/build-constraints.txt /tmp/
# The image's torch stays; if requirements.lock has another version, this fails, and the image needs another tag.
RUN pip install --no-cache-dir uv && \
    pip freeze > /tmp/image.txt && grep '^torch' /tmp/image.txt > /tmp/torch.txt && \
    uv pip install --system --no-cache --build-constraints /tmp/build-constraints.txt --no-verify-hashes \
        --constraints /tmp/torch.txt --constraints /tmp/requirements.lock -r /tmp/pyproject.toml --extra train
COPY . .

CMD ["python", "main.py", "--config", "protocols/quickstart.json"]
